"""Start several processes on this machine, as if on several hosts."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import tyro

GRACE_SECONDS = 10
"""Seconds between SIGTERM and SIGKILL for the other processes."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Start `python -m experiments NAME OPTIONS --distributed` in several processes.

    The processes find each other as hosts do, over a free port of this machine. Each
    line of output starts with the number of its process. If one process fails, the
    others are stopped. SIGTERM and Ctrl-C go to all. For example:

    python -m experiments.launch --processes 4 demo --out runs/four
    """

    processes: int = 2
    """Number of processes."""

    def __post_init__(self):
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}.")


def main(config: Launch, arguments: list[str]) -> int:
    """Run the processes until all have ended; returns the highest exit status."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "experiments", *arguments, "--distributed"]
    started = [
        subprocess.Popen(
            command,
            env=os.environ
            | {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(config.processes),
                "JAX_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(config.processes)
    ]

    is_ending = threading.Event()

    def end_all(number: int, *_) -> None:
        is_ending.set()
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_all)

    def follow(number: int, process: subprocess.Popen) -> None:
        for line in process.stdout or ():
            print(f"[{number}] {line}", end="", flush=True)
        if process.wait() != 0 and not is_ending.is_set():
            # The others may be waiting for it in a collective and cannot save.
            end_all(signal.SIGTERM)
            time.sleep(GRACE_SECONDS)
            end_all(signal.SIGKILL)

    followers = [
        threading.Thread(target=follow, args=numbered)
        for numbered in enumerate(started)
    ]
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.join()
    statuses = [process.returncode for process in started]
    return max(128 - status if status < 0 else status for status in statuses)


if __name__ == "__main__":
    prog = "python -m experiments.launch"
    sys.exit(main(*tyro.cli(Launch, prog=prog, return_unknown_args=True)))
