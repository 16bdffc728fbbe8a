"""A run's folder is its own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.study.workdir import Run, environment

ROOT = Path(__file__).parents[2]


def test_no_run_overwrites_anothers_results(tmp_path):
    Run("first", tmp_path / "run").write("report.md", "precious")
    with pytest.raises(FileExistsError, match=r"out=.*exists already"):
        Run("second", tmp_path / "run")
    assert (tmp_path / "run" / "report.md").read_text() == "precious"


def test_metrics_are_on_disk_as_soon_as_they_are_logged(tmp_path):
    run = Run("demo", tmp_path / "run")
    run.log(step=1, loss=0.5)
    run.log(step=2, loss=0.25)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [0.5, 0.25]


def test_the_default_folder_is_new_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Run("demo").folder.parent.name == "runs"


def test_a_result_says_what_it_depends_on():
    assert {"device", "jax", "commit", "python"} <= environment().keys()


def test_the_recorded_command_is_the_one_that_was_run():
    # sys.argv would give "-c --seeds 3" after any module's name
    program = (
        "from experiments.study.workdir import environment as e; print(e()['command'])"
    )
    arguments = ["-c", program, "--seeds", "3"]
    finished = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert finished.stdout.strip() == shlex.join(["python", *arguments])
