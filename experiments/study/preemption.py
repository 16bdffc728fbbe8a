"""SIGTERM, Ctrl-C and too many non-finite steps: ways for a run to stop."""

import contextlib
import signal
from collections.abc import Iterator


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
