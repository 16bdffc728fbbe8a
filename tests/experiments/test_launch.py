"""Several processes on one machine: what the launcher does with them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_one_that_fails_ends_all_and_lines_say_whose_they_are(tmp_path):
    options = ("--epochs", "1", "--out", str(tmp_path / "run"))
    finished = run("experiments.launch", "--processes", "2", "demo", *options)
    assert finished.returncode != 0
    assert "epochs must be at least 2" in finished.stdout
    assert {line[:4] for line in finished.stdout.splitlines()} <= {"[0] ", "[1] "}


def test_a_process_that_finds_no_others_says_what_is_missing(tmp_path):
    options = ("--distributed", "--out", str(tmp_path / "run"))
    finished = run("experiments", "demo", *options)
    assert finished.returncode == 2
    assert "set JAX_COORDINATOR_ADDRESS" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--resume", "--distributed"])
def test_options_that_need_a_folder_say_so(option):
    finished = run("experiments", "demo", option)
    assert finished.returncode != 0
    assert "needs a folder: pass one with --out" in finished.stderr
