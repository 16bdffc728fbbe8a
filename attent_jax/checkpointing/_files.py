"""A checkpoint's files, written and read by orbax: the record, and the arrays."""

import contextlib
import hashlib
import json
import logging
import textwrap
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from attent_jax.checkpointing._arrays import restore_args, stored_as
from attent_jax.checkpointing._errors import DamageError

_MAX_CHARACTERS = 300  # of what orbax tells


def write(
    manager: ocp.CheckpointManager,
    record: dict[str, Any],
    arrays: Mapping[str, jax.Array | np.ndarray],
) -> None:
    """Begin to write the checkpoint of the record's step, after the previous one."""
    items: dict[str, Any] = {
        "record": ocp.args.JsonSave({"sha256": _digest(record), "record": record})
    }
    # Orbax takes no arrays of size 0; of those the record says everything.
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
    """What a step has for abstract leaves; a `DamageError` if it cannot be read."""
    wanted = {name: stored_as(like) for name, like in likes.items()}
    filled = [name for name, array in wanted.items() if array.size]
    arrays: dict[str, Any] = {
        name: np.zeros(array.shape, array.dtype)
        for name, array in wanted.items()
        if not array.size
    }
    if filled:
        arguments = {name: restore_args(likes[name]) for name in filled}
        items = ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=arguments))
        with _unreadable_is_damage("state"):
            arrays |= manager.restore(step, args=items)["state"]
            for name in filled:
                found = arrays[name].shape, arrays[name].dtype
                if found != (wanted[name].shape, wanted[name].dtype):
                    raise ValueError(f"{name} is {found[1]}{list(found[0])}")
    return [arrays[name] for name in wanted]


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _unreadable_is_damage(item: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        told = textwrap.shorten(f"{type(error).__name__}: {error}", _MAX_CHARACTERS)
        raise DamageError(f"{item} cannot be read ({told})") from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    # Orbax's, in this thread: it advises to save less often if `wait` waited a second.
    thread, logger = threading.get_ident(), logging.getLogger("absl")

    def is_told(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    logger.addFilter(is_told)
    try:
        yield
    finally:
        logger.removeFilter(is_told)
