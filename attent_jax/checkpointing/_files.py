"""Files of a checkpoint: its folder, its record and its arrays, by orbax."""

import contextlib
import hashlib
import json
import logging
import reprlib
import shutil
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from attent_jax.checkpointing._leaves import is_held_alone, stored_as

_MAX_CHARACTERS = 300  # of an error of orbax
_MAX_DIFFERENCES = 3  # in one message
_SMALL_FILES = 2**16  # bytes; more than a checkpoint's files apart from its arrays


class CheckpointError(ValueError):
    """A checkpoint cannot be written, is damaged, or is another run's."""


class DamageError(Exception):
    """A file is damaged; `Checkpointer` adds which checkpoint, and what to do."""


def check_writable(folder: Path) -> None:
    """Make the folder if it does not exist; refuse one that cannot be written."""
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
    """Refuse a disk without room for what is kept and one checkpoint more."""
    # The latest, the best and the one being written, less those that exist already.
    num_existing = sum(entry.name[:1].isdigit() for entry in folder.iterdir())
    num_checkpoints = max(keep_last + 2 - num_existing, 1)
    num_bytes = sum(array.size * array.dtype.itemsize for array in arrays)
    needed, free = num_checkpoints * num_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"folder {folder} has {free / 1e6:,.1f} MB free, but {num_checkpoints} "
            f"checkpoints need {needed / 1e6:,.1f} MB: make room, choose another "
            f"folder, or lower keep_last={keep_last}."
        )


def remove_leftovers(folder: Path) -> None:
    """Remove the files of killed and failed saves, which may have filled the disk."""
    if jax.process_index() == 0:
        for leftover in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)


class LastAndBest:
    """An orbax preservation policy: keep the last `keep_last`, and the best.

    Orbax's own would read each step's metrics at the start, and fail on a damaged one.
    """

    def __init__(self, keep_last: int):
        self._keep_last = keep_last
        self._qualities: dict[int, float] = {}

    def rate(self, step: int, quality: float | None) -> None:
        """Note the quality of a step's checkpoint; None: not known."""
        self._qualities.pop(step, None)
        if quality is not None:
            self._qualities[step] = quality

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        """Of each checkpoint: whether it is kept."""
        del context
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = set(steps[-self._keep_last :])
        if rated := [step for step in steps if step in self._qualities]:
            kept.add(max(rated, key=lambda step: (self._qualities[step], step)))
        return [checkpoint.step in kept for checkpoint in checkpoints]


def write(
    manager: ocp.CheckpointManager,
    record: dict[str, Any],
    arrays: Mapping[str, jax.Array | np.ndarray],
) -> None:
    """Begin to write the checkpoint of the record's step, after the previous one."""
    items: dict[str, Any] = {
        "record": ocp.args.JsonSave({"sha256": _digest(record), "record": record})
    }
    # Orbax takes no arrays of size 0, of which the record has everything.
    if filled := {name: array for name, array in arrays.items() if array.size}:
        items["state"] = ocp.args.PyTreeSave(filled)
    with _without_warnings():
        manager.save(record["step"], args=ocp.args.Composite(**items), force=True)


def read_record(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """The record of a step; a `DamageError` if it is not as it was written."""
    items = ocp.args.Composite(record=ocp.args.JsonRestore())
    with _unreadable_is_damage("record"):
        saved = manager.restore(step, args=items)["record"]
        record, digest = saved["record"], saved["sha256"]
    if _digest(record) != digest:
        raise DamageError("record is not what was saved, by its sha256")
    if record["step"] != step:
        raise DamageError(f"record is that of step {record['step']}")
    return record


def read_arrays(
    manager: ocp.CheckpointManager, step: int, likes: Mapping[str, Any]
) -> list[jax.Array | np.ndarray]:
    """A step's arrays for these abstract leaves; a `DamageError` if unreadable."""
    wanted = {name: stored_as(like) for name, like in likes.items()}
    filled = [name for name, array in wanted.items() if array.size]
    arrays: dict[str, Any] = {
        name: np.zeros(array.shape, array.dtype)
        for name, array in wanted.items()
        if not array.size
    }
    if filled:
        arguments = {name: _restore_args(likes[name]) for name in filled}
        items = ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=arguments))
        with _unreadable_is_damage("state"):
            arrays |= manager.restore(step, args=items)["state"]
            for name in filled:
                found = arrays[name].shape, arrays[name].dtype
                if found != (wanted[name].shape, wanted[name].dtype):
                    raise ValueError(f"{name} is {found[1]}{list(found[0])}")
    return [arrays[name] for name in wanted]


def _restore_args(like: Any) -> ocp.RestoreArgs:
    """How orbax reads the array that was written for an abstract leaf."""
    sharding = getattr(like, "sharding", None)
    if sharding is None or is_held_alone(sharding):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding)


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _unreadable_is_damage(item: str) -> Iterator[None]:
    try:
        with _without_late_callbacks():
            yield
    except Exception as error:
        cause = textwrap.shorten(f"{type(error).__name__}: {error}", _MAX_CHARACTERS)
        raise DamageError(f"{item} cannot be read ({cause})") from error


@contextlib.contextmanager
def _without_late_callbacks() -> Iterator[None]:
    # If one read fails, orbax closes its event loop while others are on their way. Each
    # prints a traceback when it ends, also later: after a failure the filters stay.
    before, logger = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def is_shown(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "exception was never retrieved" not in text or "orbax" not in text

    sys.unraisablehook = hook
    logger.addFilter(is_shown)
    yield
    sys.unraisablehook = before
    logger.removeFilter(is_shown)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    # Orbax warns in this thread, to save less often, if `wait` waited a second.
    thread, logger = threading.get_ident(), logging.getLogger("absl")

    def is_shown(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)


def as_json(name: str, value: Any) -> Any:
    """`value` as JSON returns it; refuses what JSON cannot hold."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [as_json(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}: use strings for keys.")
        return {key: as_json(f"{name}.{key}", item) for key, item in value.items()}
    raise TypeError(
        f"{name} must be JSON data, got {reprlib.repr(value)} of type "
        f"{type(value).__name__}: use numbers, strings, lists and dicts, e.g. int(...) "
        f"or .tolist() of an array, and put arrays into the state."
    )


def list_differences(saved: Any, now: Any) -> str:
    """The first fields that differ, with both values; empty if none does."""
    differences = list(_differences("", saved, now))
    listed = differences[:_MAX_DIFFERENCES]
    if more := len(differences) - len(listed):
        listed.append(f"and {more} more")
    return "; ".join(listed)


def _differences(path: str, saved: Any, now: Any) -> Iterator[str]:
    """Each field that differs, by its dotted path, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in {**now, **saved}:
            pair = (side.get(key, ...) for side in (saved, now))
            yield from _differences(f"{path}.{key}".lstrip("."), *pair)
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for i, pair in enumerate(zip(saved, now, strict=True)):
            yield from _differences(f"{path}[{i}]", *pair)
    elif saved != now and not (saved != saved and now != now):  # NaN equals NaN here
        was, is_now = (
            "not there" if value is ... else reprlib.repr(value)
            for value in (saved, now)
        )
        yield f"{path} was {was}, now it is {is_now}"
