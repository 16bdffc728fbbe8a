"""Failed saves are reported and do not harm earlier checkpoints."""

import resource
import shutil
from collections import namedtuple
from contextlib import contextmanager

import jax.numpy as jnp
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


@pytest.mark.parametrize("name", ["file", "file/below", "/proc"])
def test_refuses_a_folder_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=f"folder .*{name} cannot be written"):
        checkpointer(tmp_path / name, STATE)


def test_refuses_a_disk_too_full(tmp_path, monkeypatch):
    free = 4 * 64_000

    def disk_usage(path):
        return namedtuple("usage", "total used free")(0, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    state = jnp.zeros(16_000)
    saved(tmp_path, state, 1, 2)
    free -= 1
    with pytest.raises(CheckpointError, match=r"0.3 MB free, but 4 .* need 0.3 MB"):
        checkpointer(tmp_path / "new", state)
    free = 2 * 64_000  # enough for those not yet there
    assert restored(tmp_path, state).step == 2


@contextmanager
def files_limited_to(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("notice", ["wait", "save", "close"])
def test_a_failed_save_is_told_at_the_next_call(tmp_path, notice, orbax_fails):
    saved(tmp_path, NOISE, 1, 2)
    writer = checkpointer(tmp_path, NOISE)
    writer.restore()
    failure = r"step 3 could not be written .* steps \[1, 2\] are as they were"
    with files_limited_to(100_000):
        writer.save(3, NOISE)
        with pytest.raises(CheckpointError, match=failure):
            writer.save(4, NOISE) if notice == "save" else getattr(writer, notice)()
    if notice != "close":
        assert writer.steps() == [1, 2]
        writer.save(3, NOISE)  # there is room again
        writer.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    newest = restored(tmp_path, NOISE)
    assert newest.step == (2 if notice == "close" else 3)
    assert_same(newest.state, NOISE)


def test_a_folder_that_went_away_is_told(tmp_path):
    with checkpointer(tmp_path / "folder", STATE) as writer:
        writer.save(1, STATE)
        writer.wait()
        shutil.rmtree(tmp_path / "folder")
        (tmp_path / "folder").write_text("in the way")
        with pytest.raises(CheckpointError, match=r"folder .* cannot be written"):
            writer.save(2, STATE)
