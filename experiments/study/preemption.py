"""SIGTERM, Ctrl-C and too many non-finite steps: ways for a run to stop."""

import contextlib
import os
import signal
import sys
import threading
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
        """Record signals for the next check; a second Ctrl-C stops at once.

        A thread receives them, because Python's own handlers wait until a compilation
        or a collective operation returns.
        """
        receiver, sender = os.pipe()
        os.set_blocking(sender, False)
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, _ignore) for number in numbers}
        file_before = signal.set_wakeup_fd(sender)
        thread = threading.Thread(target=self._receive, args=[receiver], daemon=True)
        thread.start()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(file_before)
            os.close(sender)  # which ends the thread
            thread.join()
            os.close(receiver)

    def _receive(self, receiver: int) -> None:
        while number := os.read(receiver, 1):
            if number[0] == signal.SIGTERM:
                self.is_preempted = True
            elif number[0] == signal.SIGINT and self.is_interrupted:
                # Like a killed run, it continues from its last checkpoint.
                os.write(sys.stderr.fileno(), f"{_SHOW_CURSOR}Stopped.\n".encode())
                os._exit(130)
            elif number[0] == signal.SIGINT:
                self.is_interrupted = True
                print(
                    "Ctrl-C: saving. Press it again to stop at once.", file=sys.stderr
                )


_SHOW_CURSOR = "\033[?25h" if sys.stderr.isatty() else ""


def _ignore(*_) -> None:
    """A handler, for without one nothing is written to the wakeup file."""
