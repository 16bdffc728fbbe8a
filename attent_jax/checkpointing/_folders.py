"""The folder of a run's checkpoints, before there is one more in it."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

from attent_jax.checkpointing._errors import CheckpointError

_SMALL_FILES = 2**16  # bytes; more than those of a checkpoint beside its arrays


def check_writable(folder: Path) -> None:
    """Make the folder if it is not there; refuse one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_SMALL_FILES))
    except OSError as error:
        raise CheckpointError(
            f"folder {folder} cannot be written ({error}): choose another, or make it "
            f"a folder that can."
        ) from error


def check_room(
    folder: Path, arrays: Sequence[jax.ShapeDtypeStruct], keep_last: int
) -> None:
    """Refuse a disk without room for what is kept and one more in the making."""
    # The latest, the best and the one in the making, less what is there already.
    there = sum(entry.name[:1].isdigit() for entry in folder.iterdir())
    num_checkpoints = max(keep_last + 2 - there, 1)
    num_bytes = sum(array.size * array.dtype.itemsize for array in arrays)
    needed, free = num_checkpoints * num_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"folder {folder} has {free / 1e6:,.1f} MB free, but {num_checkpoints} "
            f"checkpoints need {needed / 1e6:,.1f} MB: make room, choose another "
            f"folder, or lower keep_last={keep_last}."
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what killed and failed saves left; the disk may be full of it."""
    if jax.process_index() == 0:
        for leftover in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
