"""Signals are noted while Python waits for something else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments.study.preemption import Interruption

ROOT = Path(__file__).parents[2]
BUSY = """
import hashlib
from experiments.study.preemption import Interruption
with Interruption().watched():
    print("ready", flush=True)
    # Like a compilation, this does not let Python handle signals.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


def eventually(is_true) -> bool:
    deadline = time.monotonic() + 10
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.001)
    return is_true()


def test_signals_are_noted_and_the_handlers_are_put_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    interruption = Interruption()
    with interruption.watched():
        assert not interruption.is_preempted
        os.kill(os.getpid(), signal.SIGTERM)
        assert eventually(lambda: interruption.is_preempted)
        assert not interruption.is_interrupted
        os.kill(os.getpid(), signal.SIGINT)
        assert eventually(lambda: interruption.is_interrupted)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_second_interrupt_stops_at_once():
    with subprocess.Popen(
        [sys.executable, "-c", BUSY],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "again to stop at once" in process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert time.monotonic() - began < 2
        assert process.stderr.read() == "Stopped.\n"
