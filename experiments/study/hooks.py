"""What happens beside the training loop, each hook on its own cadence."""

import contextlib
import io
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree
from rich.progress import Progress, TaskID

from attent_jax.checkpointing import Checkpoint, Checkpointer, CheckpointError
from experiments.study.preemption import Interruption, Preempted, TooManySkipped
from experiments.study.processes import AnyProcess
from experiments.study.workdir import (
    GrowingFile,
    RecordError,
    as_json_line,
    write_atomically,
)


class Steps(NamedTuple):
    """Some steps in a row, after their results were read."""

    first: int
    """The first one's number in the run."""
    ids: Int[np.ndarray, "steps batch"]
    losses: Float[np.ndarray, "steps"]
    is_skipped: Bool[np.ndarray, "steps"]
    is_bad: Bool[np.ndarray, "steps batch"]
    """Rows whose loss is not finite."""
    is_taught: Bool[np.ndarray, "steps batch"]
    """Rows that were trained on."""


class Epoch(NamedTuple):
    """The end of an epoch."""

    epoch: int
    step: int
    """Steps taken so far."""
    num_steps: int
    """Steps of the whole run."""
    cost: float
    """So far, in trained examples."""
    num_selected: int
    num_taught: int
    """Examples trained on so far, with repetitions."""
    loss: float
    """Mean training loss over the epoch's finite steps; NaN if there are none."""
    num_skipped: int
    """Steps so far whose loss or gradient was not finite."""
    order_crc32: int
    """Checksum of the ids of this epoch's batches, in their order."""
    params_crc32: int
    """Checksum of the parameters after the epoch."""


class Evaluation(NamedTuple):
    """The learner was evaluated."""

    step: int
    cost: float
    measures: dict[str, float]


class Hook:
    """Receives the events of a run. This base class ignores them."""

    @property
    def name(self) -> str:
        """By which its position is saved; no two hooks of a run have the same."""
        return type(self).__name__

    def resume(
        self, part: str, target: PyTree, identity: dict[str, Any]
    ) -> Checkpoint | None:
        """Where a part of the run ("training", ...) was saved; None if it was not."""
        return None

    def position(self) -> Any:
        """JSON data for `restore`, saved with the run's state."""
        return None

    def restore(self, position: Any) -> None:
        """Go back to a position; None is the beginning."""

    def on_start(self, step: int, num_steps: int) -> None:
        """The run starts, or continues, after `step` of its steps."""

    def on_steps(self, steps: Steps) -> None:
        """The results of some steps were read, which is later than they were taken."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The learner was evaluated."""

    def on_snapshot(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """What the workload keeps of an evaluation, if it keeps something."""

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch ended."""

    def on_final_step(self, number: int, num_steps: int) -> None:
        """The final evaluation took `number` of its steps.

        What a hook writes here does not survive an interruption.
        """

    def wants_state(self, num_skipped: int) -> bool:
        """Whether to call `on_state`, which waits for the devices. Asked regularly, by
        all processes together, and answered by all alike."""
        return False

    def on_state(
        self, part: str, clock: int, state: PyTree, position: dict[str, Any]
    ) -> None:
        """A part's whole state, to be saved. `clock` increases."""

    def close(self) -> None:
        """The run ended, in whatever way."""


class _Recording(Hook):
    """Appends to a file; a resumed run cuts it where the run was saved."""

    def __init__(self, path: Path):
        self._file = GrowingFile(path)

    def position(self) -> int:
        return self._file.size

    def restore(self, position: int | None) -> None:
        self._file.cut(position or 0)


class Metrics(_Recording):
    """A line of JSON for every epoch, evaluation and skipped step."""

    def on_steps(self, steps: Steps) -> None:
        for number in np.flatnonzero(steps.is_skipped):
            ids = steps.ids[number][steps.is_bad[number]]
            self._log(skipped_step=steps.first + int(number), ids=ids)

    def on_epoch(self, epoch: Epoch) -> None:
        self._log(**epoch._asdict())

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._log(**evaluation._asdict())

    def _log(self, **fields: Any) -> None:
        self._file.append(as_json_line(fields).encode())


class Taught(_Recording):
    """The ids of the examples taught, in their order, as 32-bit integers."""

    def on_steps(self, steps: Steps) -> None:
        self._file.append(steps.ids[steps.is_taught].astype("<i4").tobytes())


def read_taught(path: Path) -> Int[np.ndarray, "taught"]:
    """What `Taught` wrote."""
    return np.fromfile(path, "<i4")


class Snapshots(Hook):
    """A file for every snapshot; see `read_snapshots`."""

    def __init__(self, folder: Path):
        self._folder = folder

    def on_snapshot(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        if jax.process_index() > 0:
            return
        self._folder.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_atomically(self._folder / f"{step:09}.npz", content.getvalue())


def read_snapshots(folder: Path) -> dict[int, dict[str, np.ndarray]]:
    """What `Snapshots` wrote: arrays by the number of steps taken.

    Raises:
      RecordError: if a file is damaged.
    """
    found = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                found[int(path.stem)] = dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RecordError(
                f"{path} is damaged ({error}): remove it to report without it."
            ) from error
    return found


class ProgressBar(Hook):
    """Shows the cost spent and its rate; prints what a person should know at once."""

    def __init__(self, progress: Progress, task: TaskID, name: str):
        self._progress, self._task, self._name = progress, task, name
        self._completed = progress.tasks[task].completed
        self._start, self._spent = time.perf_counter(), 0.0

    def on_start(self, step: int, num_steps: int) -> None:
        if step:
            self._print(f"continuing after step {step} of {num_steps}")

    def on_steps(self, steps: Steps) -> None:
        for number in np.flatnonzero(steps.is_skipped):
            ids = steps.ids[number][steps.is_bad[number]].tolist()
            self._print(
                f"step {steps.first + int(number)} skipped, its loss or gradient is "
                f"not finite; ids of such losses: {ids}"
            )

    def on_epoch(self, epoch: Epoch) -> None:
        self._show(epoch.cost)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._show(evaluation.cost)

    def on_final_step(self, number: int, num_steps: int) -> None:
        self._progress.update(
            self._task,
            description=f"{self._name} final evaluation, {number} of {num_steps}",
        )

    def _show(self, cost: float) -> None:
        now = time.perf_counter()
        if cost > self._spent:
            rate = (cost - self._spent) / (now - self._start)
            self._progress.update(
                self._task,
                completed=self._completed + cost,
                description=f"{self._name} {rate:7,.0f} examples/s",
            )
        self._start, self._spent = now, cost

    def _print(self, text: str) -> None:
        self._progress.console.print(f"{self._name}: {text}")


class Checkpoints(Hook):
    """Saves on a timer, on SIGTERM and Ctrl-C, and before too many skipped steps.

    Args:
      folder: for this run's checkpoints alone.
      seconds: time between checkpoints.
      max_skipped: how many steps may be skipped because they are not finite.
      interruption: the signals received.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        max_skipped: int,
        interruption: Interruption,
    ):
        self._folder, self._seconds, self._max = folder, seconds, max_skipped
        self._interruption = interruption
        self._checkpointers: dict[str, Checkpointer] = {}
        self._saved_at = time.monotonic()
        self._any_process = AnyProcess()
        self._is_preempted = self._is_interrupted = False

    def resume(
        self, part: str, target: PyTree, identity: dict[str, Any]
    ) -> Checkpoint | None:
        folder = self._folder / part.replace(" ", "-")
        with _saying_how_to_continue():
            checkpointer = Checkpointer(folder, target, identity=identity)
        self._checkpointers[part] = checkpointer
        try:
            saved = checkpointer.restore()
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} With --resume, this run continues from the checkpoint before "
                f"it once you remove the newest folder in {folder}, and starts again "
                f"once you remove {self._folder.parent}."
            ) from error
        if saved is not None:
            self._check(saved.position.get("num_skipped", 0))
        return saved

    def _check(self, num_skipped: int) -> None:
        if num_skipped > self._max:
            raise TooManySkipped(
                f"{num_skipped} steps had a loss or gradient that is not finite, and "
                f"{self._max} are allowed; metrics.jsonl has the ids of their "
                f"examples, {self._folder} the last good state. Fix the examples or "
                f"the loss, or allow more with --max-skipped-steps."
            )

    def wants_state(self, num_skipped: int) -> bool:
        is_late = time.monotonic() - self._saved_at >= self._seconds
        self._is_preempted, self._is_interrupted, is_due = self._any_process(
            self._interruption.is_preempted, self._interruption.is_interrupted, is_late
        )
        is_stopped = self._is_preempted or self._is_interrupted
        return is_due or is_stopped or num_skipped > self._max

    def on_state(
        self, part: str, clock: int, state: PyTree, position: dict[str, Any]
    ) -> None:
        """Save, and stop here if the run has to.

        Raises:
          Preempted, KeyboardInterrupt, TooManySkipped: after saving.
        """
        checkpointer = self._checkpointers[part]
        with _saying_how_to_continue():
            checkpointer.save(clock, state, position)
        self._saved_at = time.monotonic()
        self._any_process.forget()
        num_skipped = position.get("num_skipped", 0)
        is_stopped = self._is_preempted or self._is_interrupted
        if is_stopped or num_skipped > self._max:
            checkpointer.wait()
        self._check(num_skipped)
        if is_stopped:
            raise Preempted if self._is_preempted else KeyboardInterrupt

    def close(self) -> None:
        for checkpointer in self._checkpointers.values():
            with _saying_how_to_continue():
                checkpointer.close()


@contextlib.contextmanager
def _saying_how_to_continue() -> Iterator[None]:
    """For checkpoints that cannot be written."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error} Then continue with --resume.") from error
