"""Damage is refused, in whatever file, and earlier checkpoints are named."""

import logging
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from attent_jax.checkpointing import CheckpointError
from tests.checkpointing.saved_runs import (
    NOISE,
    STATE,
    assert_same,
    checkpointer,
    restored,
    saved,
)


def flip(file):
    """Flip a bit in the middle: of a number's last digit if there is one."""
    damaged = bytearray(file.read_bytes())
    middle = len(damaged) // 2
    number = re.search(rb"\d\d+", damaged[middle:])
    damaged[middle + number.end() - 1 if number else middle] ^= 1
    file.write_bytes(damaged)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def test_any_damage_is_refused_or_has_no_effect(tmp_path, orbax_fails):
    whole = tmp_path / "whole"
    saved(whole, NOISE, 1, 2)
    files = [path for path in (whole / "2").rglob("*") if path.is_file()]
    refusals = []
    for number, file in enumerate(files):
        for damage in (flip, truncate, Path.unlink):
            folder = tmp_path / f"{number}{damage.__name__}"
            shutil.copytree(whole, folder)
            damage(folder / file.relative_to(whole))
            with checkpointer(folder, NOISE) as reader:
                try:
                    step, state, position = reader.restore()  # pyright: ignore
                except CheckpointError as error:
                    refusals.append(str(error))
                    step, state, position = reader.restore(step=1)  # pyright: ignore
                    assert (step, position) == (1, {"epoch": 1})
                else:
                    assert (step, position) == (2, {"epoch": 2})
                assert_same(state, NOISE)
            shutil.rmtree(folder)
    assert all("step 2 " in error and "restore(step=1)" in error for error in refusals)
    errors = "\n".join(refusals)
    assert "state['w'] has checksum" in errors
    assert "record is not what was saved" in errors
    assert "record cannot be read" in errors
    assert "state cannot be read" in errors


def test_arrays_of_another_shape_are_damage(tmp_path):
    x = np.arange(6.0)  # whose sum is the same in any shape
    saved(tmp_path / "wide", x.reshape(2, 3), 1)
    saved(tmp_path / "tall", x.reshape(3, 2), 1)
    shutil.rmtree(tmp_path / "wide/1/state")
    shutil.copytree(tmp_path / "tall/1/state", tmp_path / "wide/1/state")
    with pytest.raises(CheckpointError, match=r"state cannot .* is float64\[3, 2\]"):
        restored(tmp_path / "wide", x.reshape(2, 3))


def test_damage_says_what_is_left(tmp_path):
    saved(tmp_path, STATE, 1, 2)
    (tmp_path / "1").rename(tmp_path / "5")
    with pytest.raises(CheckpointError, match=r"step 5 .* that of step 1\..*of steps "):
        restored(tmp_path, STATE)
    (tmp_path / "5").rename(tmp_path / "0")
    shutil.rmtree(tmp_path / "0/record")
    with checkpointer(tmp_path, STATE, keep_last=1) as reader:
        with pytest.raises(CheckpointError, match="There is no earlier one"):
            reader.restore(0)
        assert reader.restore().step == 2  # pyright: ignore
        reader.save(3, STATE)  # a damaged one does not prevent saves
        assert reader.steps() == [3]


def test_nothing_else_is_printed_about_damage(tmp_path, monkeypatch, caplog):
    """Orbax's other reads end after it has closed their event loop."""

    class Late:
        def __init__(self, message):
            self.message = message

        def __del__(self):
            raise RuntimeError(self.message)

    def read(*_, **__):
        Late("Event loop is closed")
        Late("of another library")
        logging.getLogger("asyncio").error("Task exception was never retrieved orbax")
        logging.getLogger("asyncio").error("of another library")
        raise ValueError("bad bytes")

    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: printed.append(u.exc_value))
    saved(tmp_path, NOISE, 1)
    with checkpointer(tmp_path, NOISE) as reader:
        monkeypatch.setattr(reader._manager, "restore", read)
        with pytest.raises(CheckpointError, match="bad bytes"):
            reader.restore()
        Late("Event loop is closed")
    assert {str(error) for error in printed} == {"of another library"}
    assert caplog.messages == ["of another library"]
