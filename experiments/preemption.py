"""Checkpoint on a timer or SIGTERM; stop after too many non-finite steps."""

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attent_jax.checkpointing import Checkpoint, Checkpointer, CheckpointError
from experiments.workdir import any_process


class Preempted(Exception):
    """SIGTERM was received and the run is saved."""


class TooManySkipped(Exception):
    """Too many steps were not finite; the last good state is saved."""


class Interruption:
    """Whether this process has received SIGTERM or Ctrl-C."""

    def __init__(self):
        self.is_preempted = False
        self.is_interrupted = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Record signals for the next check; a second Ctrl-C stops at once."""

        def preempt(*_) -> None:
            self.is_preempted = True

        def interrupt(*_) -> None:
            if self.is_interrupted:
                raise KeyboardInterrupt
            self.is_interrupted = True

        before = {
            number: signal.signal(number, note)
            for number, note in ((signal.SIGTERM, preempt), (signal.SIGINT, interrupt))
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Safety:
    """The checkpoints of one run, in their own folder.

    Args:
      folder: for this run's checkpoints alone.
      target: the run's initial state.
      identity: what identifies the run, as JSON data.
      seconds: time between checkpoints.
      max_skipped: how many steps may be skipped because they are not finite.
      interruption: signals received.
    """

    def __init__(
        self,
        folder: Path,
        target: Any,
        *,
        identity: dict[str, Any],
        seconds: float,
        max_skipped: int,
        interruption: Interruption,
    ):
        self._folder, self._seconds, self._max = folder, seconds, max_skipped
        self._interruption = interruption
        self._checkpointer = Checkpointer(folder, target, identity=identity)
        self._saved_at = time.monotonic()

    def restore(self) -> Checkpoint | None:
        """The newest checkpoint, if there is one.

        Raises:
          CheckpointError: if it is damaged or belongs to another run.
        """
        try:
            return self._checkpointer.restore()
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} To continue from the one before it, if there is one, remove "
                f"the newest folder in {self._folder}."
            ) from error

    def look(self, clock: int, state: Any, position: dict[str, Any]) -> None:
        """Save if it is due. All processes call this together, regularly.

        Raises:
          Preempted, KeyboardInterrupt, TooManySkipped: after saving, if the run has
            to stop here.
        """
        is_late = time.monotonic() - self._saved_at >= self._seconds
        is_preempted, is_interrupted, is_due = any_process(
            self._interruption.is_preempted, self._interruption.is_interrupted, is_late
        )
        has_too_many = position["num_skipped"] > self._max
        if not (is_preempted or is_interrupted or has_too_many or is_due):
            return
        self._checkpointer.save(clock, state, position)
        self._saved_at = time.monotonic()
        if has_too_many:
            self._checkpointer.wait()
            raise TooManySkipped(
                f"{position['num_skipped']} steps had a loss or gradient that is not "
                f"finite, and {self._max} are allowed; metrics.jsonl has the ids of "
                f"their examples, {self._folder} the last good state. Fix the "
                f"examples or the loss, or allow more with --max-skipped-steps."
            )
        if is_preempted or is_interrupted:
            self._checkpointer.wait()
            raise Preempted if is_preempted else KeyboardInterrupt

    def close(self) -> None:
        """Stop and keep the checkpoints."""
        self._checkpointer.close()


def discard(folder: Path) -> None:
    """Remove checkpoints that are no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)
