"""Start several processes on this machine, as if on several hosts."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import tyro

POLL_SECONDS = 0.2
"""Time between two looks at the processes."""
GRACE_SECONDS = 5
"""Seconds between SIGTERM and SIGKILL for the other processes."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Start `python -m experiments NAME OPTIONS --distributed` in several processes.

    The processes find each other as hosts do, over a free port of this machine. Each
    line of output starts with the number of its process. If one process fails, the
    others are ended, and the exit status is its own. If one is stopped (SIGSTOP), a
    line says so within two seconds, because the others wait for it. SIGTERM and Ctrl-C
    go to all. Wrong options are refused before any process starts. For example:

    python -m experiments.launch --processes 4 demo --out runs/four
    """

    processes: int = 2
    """Number of processes."""

    def __post_init__(self):
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}.")


def main(config: Launch, arguments: list[str]) -> int:
    """Check the command line, and run it in all processes; returns the exit status."""
    from experiments.__main__ import parse  # imports jax, which --help does not need

    arguments = [*arguments, "--distributed"]
    parse(arguments)
    return run([sys.executable, "-m", "experiments", *arguments], config.processes)


def run(command: Sequence[str], num_processes: int) -> int:
    """Run the command in processes that find each other, until all have ended.

    Returns:
      The exit status of the process that failed first, 128 + N if signal N ended it; 0
      if none failed.
    """
    received: list[int] = []
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda number, _: received.append(number))
    started = _start(command, num_processes)
    followers = [
        threading.Thread(target=_follow, args=numbered)
        for numbered in enumerate(started)
    ]
    for follower in followers:
        follower.start()
    status, deadline = 0, float("inf")
    while any([process.poll() is None for process in started]):
        while received:
            _send(started, received.pop(0))
        _report_stopped(started)
        if not status and (status := _failure(started)):
            # The others may be waiting for it, and cannot save.
            _send(started, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            _send(started, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    for follower in followers:
        follower.join()
    return status or _failure(started)


def _start(command: Sequence[str], num_processes: int) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            command,
            env=os.environ
            | {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(num_processes),
                "JAX_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A terminal sends Ctrl-C to a whole group: they would receive it twice.
            process_group=0,
        )
        for number in range(num_processes)
    ]


def _follow(number: int, process: subprocess.Popen[str]) -> None:
    for line in process.stdout or ():
        print(f"[{number}] {line}", end="", flush=True)


def _send(started: Sequence[subprocess.Popen[str]], signal_number: int) -> None:
    for process in started:
        process.send_signal(signal_number)


def _failure(started: Sequence[subprocess.Popen[str]]) -> int:
    """The exit status of a process that failed, after a line about it; else 0."""
    for number, process in enumerate(started):
        if status := process.poll():
            how = f"failed with exit status {status}"
            if status < 0:
                how = f"was ended by {signal.Signals(-status).name}"
                status = 128 - status
            way_on = " To continue, add --resume." if status != 2 else ""
            _say(f"process {number} {how}, so the others are ended.{way_on}")
            return status
    return 0


def _report_stopped(started: Sequence[subprocess.Popen[str]]) -> None:
    """Print which processes were stopped or continued since the last call."""
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13
        return
    changes = os.WSTOPPED | os.WCONTINUED | os.WNOHANG
    for number, process in enumerate(started):
        try:
            change = os.waitid(os.P_PID, process.pid, changes)
        except ChildProcessError:  # it has ended
            continue
        if change is not None and change.si_code == os.CLD_CONTINUED:
            _say(f"process {number} continues.")
        elif change is not None:
            _say(
                f"process {number} is stopped, and the others wait for it: continue it "
                f"with kill -CONT {process.pid}."
            )


def _say(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    prog = "python -m experiments.launch"
    sys.exit(main(*tyro.cli(Launch, prog=prog, return_unknown_args=True)))
