"""A run's folder is its own, and its files are whole."""

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.study.workdir import (
    GrowingFile,
    RecordError,
    Run,
    environment,
    write_atomically,
)

ROOT = Path(__file__).parents[2]


def test_no_run_overwrites_anothers_results(tmp_path):
    Run("first", tmp_path / "run").write("report.md", "precious")
    with pytest.raises(RecordError, match=r"out=.*exists already.* pass --resume"):
        Run("second", tmp_path / "run")
    assert (tmp_path / "run" / "report.md").read_text() == "precious"


def test_an_empty_folder_can_be_used(tmp_path):
    Run("first", tmp_path)
    assert (tmp_path / "config.json").exists()


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


class FullDisk(io.FileIO):
    """A file that takes three more bytes."""

    def write(self, content) -> int:
        super().write(bytes(content)[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def append(path: Path, content: bytes) -> None:
    GrowingFile(path).append(content)


@pytest.mark.parametrize("write", [append, write_atomically])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_bytes(b"before\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: FullDisk(path, mode))
        with pytest.raises(RecordError, match=r"No space left .*make room.*--resume"):
            write(path, b"after\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before\n"
