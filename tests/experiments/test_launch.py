"""Several processes on one machine: what the launcher does with them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.__main__ import parse

ROOT = Path(__file__).parents[2]
RUN = "import sys; from experiments.launch import run; sys.exit(run(sys.argv[1:], 2))"
PREAMBLE = """
import os, signal, sys, time
number = int(os.environ["JAX_PROCESS_ID"])
print(number, os.environ["JAX_NUM_PROCESSES"], os.getpid(), flush=True)
"""


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


class Launched:
    """Two processes that run a program, under the launcher."""

    def __init__(self, program: str):
        children = [sys.executable, "-c", PREAMBLE + program]
        self.launcher = subprocess.Popen(
            [sys.executable, "-c", RUN, *children],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        found = self.read_until(r"\[\d\] (\d) 2 (\d+)", count=2)
        self.pids = {int(number): int(pid) for number, pid in found}

    def read_until(self, pattern: str, count: int = 1) -> list[tuple[str, ...]]:
        """The groups of the pattern in `count` lines, of all lines so far."""
        assert self.launcher.stdout is not None
        while len(found := re.findall(pattern, "".join(self.lines))) < count:
            line = self.launcher.stdout.readline()
            assert line, self.lines
            self.lines.append(line)
        return found

    def finish(self) -> int:
        assert self.launcher.stdout is not None
        with self.launcher.stdout as rest:
            self.lines += rest
        return self.launcher.wait()


def test_wrong_options_are_refused_before_a_process_starts(tmp_path):
    options = ("--epochs", "-1", "--out", str(tmp_path / "run"))
    finished = run("experiments.launch", "demo", *options)
    assert finished.returncode == 2
    assert "epochs must be a number above 0" in finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr


def test_one_that_fails_ends_all_and_lines_say_whose_they_are():
    launched = Launched("time.sleep(0.2); number or sys.exit(3); time.sleep(60)")
    began = time.monotonic()
    assert launched.finish() == 3
    assert time.monotonic() - began < 10
    failed = "launch: process 0 failed with exit status 3, so the others are ended."
    assert launched.lines[-1].startswith(failed)
    assert {line[:4] for line in launched.lines[:-1]} == {"[0] ", "[1] "}


def test_one_that_is_killed_ends_even_those_that_ignore_sigterm():
    launched = Launched("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    began = time.monotonic()
    os.kill(launched.pids[1], signal.SIGKILL)
    assert launched.finish() == 128 + signal.SIGKILL
    assert 4 < time.monotonic() - began < 20
    assert "process 1 was ended by SIGKILL" in launched.lines[-1]


def test_one_that_is_stopped_is_reported_within_two_seconds_and_can_continue():
    launched = Launched("time.sleep(1); print('done', flush=True)")
    began = time.monotonic()
    os.kill(launched.pids[1], signal.SIGSTOP)
    launched.read_until(
        "process 1 is stopped, and the others wait for it: continue it with "
        f"kill -CONT {launched.pids[1]}"
    )
    assert time.monotonic() - began < 2
    os.kill(launched.pids[1], signal.SIGCONT)
    launched.read_until("process 1 continues")
    assert launched.finish() == 0
    assert "[1] done\n" in launched.lines


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_to_all_once(sent):
    launched = Launched("""
received = []
for sent in (signal.SIGTERM, signal.SIGINT):
    signal.signal(sent, lambda number, _: received.append(number))
print("ready", flush=True)
while not received:
    time.sleep(0.01)
time.sleep(0.5)
print(received, flush=True)
""")
    launched.read_until("ready", count=2)
    launched.launcher.send_signal(sent)
    assert launched.finish() == 0
    assert sorted(launched.lines[-2:]) == [f"[{n}] [{sent:d}]\n" for n in range(2)]


def test_a_process_that_finds_no_others_says_what_is_missing(tmp_path):
    options = ("--distributed", "--out", str(tmp_path / "run"))
    finished = run("experiments", "demo", *options)
    assert finished.returncode == 2
    assert "set JAX_COORDINATOR_ADDRESS" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--resume", "--distributed"])
def test_options_that_need_a_folder_say_so(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(["demo", option])
    assert "needs a folder: pass one with --out" in capsys.readouterr().err
