"""Checkpoints: all that a run needs to go on as if it had never stopped."""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import reprlib
import shutil
import tempfile
import textwrap
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers

from attent_jax._checks import check_count, check_number

_SMALL_FILES = 2**16  # bytes; more than those of a checkpoint beside its arrays
_NUMBERS = bool, int, float, complex
_MAX_DIFFERENCES, _MAX_CHARACTERS = 3, 300  # told in one message


class CheckpointError(ValueError):
    """A checkpoint that cannot be used (foreign, damaged), or cannot be written."""


class Checkpoint(NamedTuple):
    """What was saved at one step."""

    step: int
    state: PyTree
    """Of the target's structure, its arrays where the target's are."""
    position: dict[str, Any]
    """As JSON has it: tuples come back as lists."""


class Checkpointer:
    """Saves a run's whole state, and restores it only if it is that run's, unharmed.

    A save returns once the state is copied off the device, and is written meanwhile; a
    killed one leaves nothing that looks like a checkpoint. Every leaf is stored with a
    checksum, which is computed anew from what comes back.

    Under several processes each calls every method. What one process holds alone
    (numpy arrays, numbers, arrays on its own devices) must be the same on all.

    Args:
      folder: where the checkpoints lie, for one run alone; made if it is not there.
      target: a state to restore to, live or abstract (`jax.ShapeDtypeStruct`): any
        pytree of arrays, typed keys, numpy arrays and Python numbers. Arrays come
        back with the target's sharding, however many devices they were saved from;
        where it has none, or is uncommitted, uncommitted on the default device.
      identity: whose checkpoints these are, as JSON data: the configuration, the
        pool's size and checksum, ... Those of another identity are refused.
      keep_last: how many of the latest are kept; the best is kept besides.

    Raises:
      CheckpointError: if the folder cannot be written, or has no room for what is
        kept and one more in the making.
      TypeError, ValueError: for a leaf that is no array or number, an identity that is
        not JSON data, or a keep_last that is no integer >= 1.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp
      >>> from attent_jax.checkpointing import Checkpointer
      >>> state = {"params": jnp.arange(3.0), "key": jax.random.key(0)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with Checkpointer(folder, state, identity={"seed": 0}) as checkpointer:
      ...         print(checkpointer.restore())
      ...         checkpointer.save(10, state, {"epoch": 1})
      ...     with Checkpointer(folder, state, identity={"seed": 0}) as checkpointer:
      ...         step, state, position = checkpointer.restore()
      None
      >>> step, state["params"], position
      (10, Array([0., 1., 2.], dtype=float32), {'epoch': 1})
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        target: PyTree,
        *,
        identity: Mapping[str, Any],
        keep_last: int = 2,
    ):
        self._folder = Path(folder).absolute()
        self._identity = _as_json("identity", identity)
        self._leaves = _described("target", target)
        self._target = jax.tree.map(_abstract, target)  # holds no memory
        keep_last = check_count("keep_last", keep_last)
        _check_writable(self._folder)
        _check_room(self._folder, jax.tree.leaves(self._target), keep_last)
        self._qualities: dict[int, float] = {}
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_LastAndBest(keep_last, self._qualities),
            ),
        )
        self._step: int | None = None  # where the run is: saved or restored last
        for step in self._manager.all_steps():
            # A damaged one is refused when it is asked for, not before.
            with contextlib.suppress(CheckpointError):
                self._note_quality(step, self._read_record(step)["quality"])

    def save(
        self,
        step: int,
        state: PyTree,
        position: Mapping[str, Any] | None = None,
        *,
        quality: float | None = None,
    ) -> None:
        """Save the state after `step` steps, in the background.

        Going on from an older checkpoint leaves later ones behind: the first save
        after `restore(step=...)` removes them. A step just saved or restored is not
        saved again.

        Args:
          step: how far the run is; rises from save to save.
          state: of the target's structure, shapes and dtypes, on any devices.
          position: what else the run must know, as JSON data: the epoch, the step in
            it, the length of a log, ...
          quality: how good the state is, higher is better; the best is kept, of equals
            the newer. None or NaN: not known.

        Raises:
          CheckpointError: if this or the previous save cannot be written, or the
            folder has checkpoints and none was restored.
          TypeError, ValueError: for a state unlike the target, a position that is not
            JSON data, or a step before the last.
        """
        step = check_count("step", step, minimum=0)
        position = _as_json("position", {} if position is None else position)
        if quality is not None:
            is_nan = bool(quality != quality)
            quality = None if is_nan else check_number("quality", quality)
        leaves = _described("state", state)
        if difference := _first_difference(leaves, self._leaves):
            path, given, wanted = difference
            raise ValueError(
                f"state{path} is {given}, but the target has {wanted}: pass the whole "
                f"state, or make the target of its structure, shapes and dtypes."
            )
        if step == self._step:
            return
        if self._step is not None and step < self._step:
            raise ValueError(
                f"step must rise from save to save, got {step} after {self._step}: "
                f"restore(step=...) goes back."
            )
        arrays = [_stored(leaf) for leaf in jax.tree.leaves(state)]
        checksums = _checksums(arrays)
        _check_same_everywhere(leaves, checksums)
        self._leave_later_behind()  # waits for the previous save, only now
        record = {
            "step": step,
            "identity": self._identity,
            "position": position,
            "quality": quality,
            "leaves": [
                {**leaf._asdict(), "checksum": checksum}
                for leaf, checksum in zip(leaves, checksums, strict=True)
            ],
        }
        items: dict[str, Any] = {
            "record": ocp.args.JsonSave({"sha256": _digest(record), "record": record})
        }
        # Orbax takes no arrays of size 0; of those the record says everything.
        named = zip(_names(leaves), arrays, strict=True)
        if filled := {name: array for name, array in named if array.size}:
            items["state"] = ocp.args.PyTreeSave(filled)
        if jax.process_index() == 0:
            # What killed and failed saves left; the disk may be full of it.
            for leftover in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        # Orbax that cannot even make its folders takes five minutes to say so.
        _check_writable(self._folder)
        self._note_quality(step, quality)
        with self._telling_failure(step), _without_warnings():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self._step = step

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, rising; waits for one in the making."""
        self.wait()
        return sorted(self._manager.all_steps())

    def restore(self, step: int | None = None) -> Checkpoint | None:
        """Read a checkpoint back, having checked all of it.

        Args:
          step: which of `steps()`. None: the newest.

        Returns:
          The `Checkpoint`; None if there is none yet and no step was asked for.

        Raises:
          CheckpointError: if it has another identity, or a structure, shape or dtype
            that the target has not, or is damaged. Earlier ones are told, and never
            taken unasked.
        """
        steps = self.steps()
        if step is None and not steps:
            return None
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(
                f"No checkpoint of step {step} in {self._folder}: ask for one of "
                f"{steps}, or for None, the newest."
            )
        record = self._read_record(step)
        self._check_identity(step, record["identity"])
        checksums = [entry.pop("checksum") for entry in record["leaves"]]
        saved = [_Leaf(**entry) for entry in record["leaves"]]
        if difference := _first_difference(saved, self._leaves):
            path, was, wanted = difference
            raise CheckpointError(
                f"The checkpoint of step {step} in {self._folder} does not fit: "
                f"state{path} was saved as {was}, the target has {wanted}. Restore "
                f"with the model and optimizer it was saved from, or start anew in "
                f"another folder."
            )
        arrays = self._read_arrays(step)
        found = _checksums(arrays)
        for leaf, checksum, is_now in zip(saved, checksums, found, strict=True):
            if is_now != checksum:
                raise self._damage(
                    step,
                    f"state{leaf.path} has checksum {is_now}, saved was {checksum}",
                )
        likes, treedef = jax.tree.flatten(self._target)
        leaves = [
            _restored(like, array, leaf.weak_type)
            for like, array, leaf in zip(likes, arrays, saved, strict=True)
        ]
        self._step = step
        state = jax.tree.unflatten(treedef, leaves)
        return Checkpoint(step, state, record["position"])

    def wait(self) -> None:
        """Wait until the last save is written.

        Raises:
          CheckpointError: if it could not be.
        """
        with self._telling_failure(self._step):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait as `wait` does, and end; the `with` statement calls it."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_identity(self, step: int, saved: Any) -> None:
        differences = list(_differences("", saved, self._identity))
        if not differences:
            return
        told = "; ".join(differences[:_MAX_DIFFERENCES])
        if (more := len(differences) - _MAX_DIFFERENCES) > 0:
            told += f"; and {more} more"
        raise CheckpointError(
            f"The checkpoint of step {step} in {self._folder} is another run's: "
            f"{told}. To go on with it set these as they were, else choose another "
            f"folder."
        )

    def _damage(self, step: int, what: str) -> CheckpointError:
        earlier = [s for s in sorted(self._manager.all_steps()) if s < step]
        remedy = (
            f"Earlier ones are of steps {earlier}: ask with restore(step={earlier[-1]})"
            if earlier
            else "There is no earlier one: start anew in another folder"
        )
        return CheckpointError(
            f"The checkpoint of step {step} in {self._folder} is damaged: {what}. "
            f"{remedy}."
        )

    def _unreadable(self, step: int, item: str, error: Exception) -> CheckpointError:
        told = textwrap.shorten(f"{type(error).__name__}: {error}", _MAX_CHARACTERS)
        return self._damage(step, f"{item} cannot be read ({told})")

    def _leave_later_behind(self) -> None:
        steps = self.steps()
        if self._step is None and steps:
            raise CheckpointError(
                f"folder {self._folder} has checkpoints of steps {steps}, and none was "
                f"restored: restore() to go on with them, or choose another folder."
            )
        for step in steps:
            if self._step is not None and step > self._step:
                self._manager.delete(step)

    def _note_quality(self, step: int, quality: float | None) -> None:
        self._qualities.pop(step, None)
        if quality is not None:
            self._qualities[step] = quality

    def _read_arrays(self, step: int) -> list[jax.Array | np.ndarray]:
        likes = dict(
            zip(_names(self._leaves), jax.tree.leaves(self._target), strict=True)
        )
        arrays = {name: np.zeros(*_stored_as(like)) for name, like in likes.items()}
        filled = [name for name, array in arrays.items() if array.size]
        if not filled:
            return list(arrays.values())
        arguments = {name: _restore_args(likes[name]) for name in filled}
        items = ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=arguments))
        try:
            found = self._manager.restore(step, args=items)["state"]
            for name in filled:
                wanted, array = arrays[name], found[name]
                if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                    raise ValueError(f"{name} is {array.dtype}{list(array.shape)}")
        except Exception as error:
            raise self._unreadable(step, "state", error) from error
        return [found.get(name, array) for name, array in arrays.items()]

    def _read_record(self, step: int) -> dict[str, Any]:
        try:
            items = ocp.args.Composite(record=ocp.args.JsonRestore())
            saved = self._manager.restore(step, args=items)["record"]
            record, digest = saved["record"], saved["sha256"]
        except Exception as error:
            raise self._unreadable(step, "record", error) from error
        if _digest(record) != digest:
            raise self._damage(step, "record is not what was saved, by its sha256")
        if record["step"] != step:
            raise self._damage(step, f"record is that of step {record['step']}")
        return record

    @contextlib.contextmanager
    def _telling_failure(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._manager.reload()
            steps = sorted(self._manager.all_steps())
            self._step = steps[-1] if steps else None
            raise CheckpointError(
                f"The checkpoint of step {step} could not be written to "
                f"{self._folder}: {error}. Those of steps {steps} are as they were; "
                f"make room, or choose another folder."
            ) from error


class _LastAndBest:
    """An orbax preservation policy: `keep_last`, and the best of known quality.

    Orbax's own would read each step's metrics at the start, and fail on a damaged one.
    """

    def __init__(self, keep_last: int, qualities: Mapping[int, float]):
        self._keep_last = keep_last
        self._qualities = qualities

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        del context
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = set(steps[-self._keep_last :])
        if rated := [step for step in steps if step in self._qualities]:
            kept.add(max(rated, key=lambda step: (self._qualities[step], step)))
        return [checkpoint.step in kept for checkpoint in checkpoints]


class _Leaf(NamedTuple):
    """A leaf as the record and the messages tell it."""

    path: str
    shape: Sequence[int]
    dtype: str
    weak_type: bool

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _described(name: str, tree: PyTree) -> list[_Leaf]:
    return [
        _describe(name, jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _describe(name: str, path: str, leaf: Any) -> _Leaf:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return _Leaf(
            path, leaf.shape, leaf.dtype.name, bool(getattr(leaf, "weak_type", False))
        )
    if type(leaf) in _NUMBERS:
        array, dtype = np.asarray(leaf), type(leaf).__name__
    elif isinstance(leaf, np.ndarray | np.generic):
        array, dtype = leaf, leaf.dtype.name
    else:
        array, dtype = np.asarray(None), ""
    is_numeric = jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_
    if not is_numeric or (type(leaf) is int and array.dtype != np.int64):
        raise TypeError(
            f"{name}{path} must be an array or a number, got {reprlib.repr(leaf)} of "
            f"type {type(leaf).__name__}: make an array of it, or put it into the "
            f"position."
        )
    return _Leaf(path, array.shape, dtype, False)


def _names(leaves: list[_Leaf]) -> list[str]:
    """What the leaves are called on disk: their numbers, with what can be read."""
    return [
        re.sub(r"\W+", "_", f"{i}{leaf.path}", flags=re.ASCII).strip("_")
        for i, leaf in enumerate(leaves)
    ]


def _abstract(leaf: Any) -> Any:
    """A leaf without its memory: what restoring must know of it."""
    if isinstance(leaf, jax.Array):
        sharding = leaf.sharding if leaf.committed else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if isinstance(leaf, np.ndarray):
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return leaf


def _stored(leaf: Any) -> jax.Array | np.ndarray:
    """The array that is written for a leaf."""
    if not isinstance(leaf, jax.Array):
        array = np.asarray(leaf)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    # Orbax takes from several processes what they hold together, or all the same.
    is_own = jax.process_count() > 1 and leaf.is_fully_addressable
    return np.asarray(leaf) if is_own else leaf


def _stored_as(like: Any) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of what is written for an abstract leaf."""
    if isinstance(like, jax.ShapeDtypeStruct):
        if _is_key(like):
            like = jax.eval_shape(jax.random.key_data, like)
        return like.shape, like.dtype
    array = np.asarray(like)
    return array.shape, array.dtype.newbyteorder("=")


def _restore_args(like: Any) -> ocp.RestoreArgs:
    sharding = getattr(like, "sharding", None)
    if sharding is None or (jax.process_count() > 1 and sharding.is_fully_addressable):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding)


def _restored(like: Any, array: Any, weak_type: bool) -> Any:
    """The leaf that was written as `array`, of the kind and in the place of `like`."""
    if type(like) in _NUMBERS:
        return type(like)(array[()])
    if not isinstance(like, jax.ShapeDtypeStruct):
        return array if isinstance(like, np.ndarray) else array[()]
    array = jax.device_put(array, like.sharding)
    if _is_key(like):
        return jax.random.wrap_key_data(array, impl=_key_impl(like))
    return _weakened(array, like.sharding) if weak_type else array


def _weakened(array: jax.Array, sharding: Sharding | None) -> jax.Array:
    # A strong one would promote others and compile anew what took a weak one.
    zero = jnp.asarray({"i": 0, "f": 0.0, "c": 0j}.get(array.dtype.kind, False))
    weak = jax.device_put(jnp.broadcast_to(zero, array.shape), sharding)
    return weak.at[...].set(array) if zero.dtype == array.dtype else array


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(like: jax.ShapeDtypeStruct) -> Any:
    impls = []
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), like)
    return impls[0]


def _checksums(arrays: Sequence[jax.Array | np.ndarray]) -> list[int]:
    """Of each array: the sum of bits[i] · (2i + 1), modulo 2^32.

    The factors are odd, so that any change of one entry's bits shows, and the sum is
    the same in any order, over any shards.
    """
    by_devices = defaultdict(list)  # a jitted function takes one set of devices
    for i, array in enumerate(arrays):
        by_devices[_devices(array)].append(i)
    checksums = [0] * len(arrays)
    for members in by_devices.values():
        summed = _weighted_sums([_countable(arrays[i]) for i in members])
        for i, checksum in zip(members, jax.device_get(summed), strict=True):
            checksums[i] = int(checksum)
    return checksums


def _devices(array: jax.Array | np.ndarray) -> Any:
    if isinstance(array, np.ndarray) or not array.committed:
        return None
    if isinstance(array.sharding, NamedSharding):
        return array.sharding.mesh
    return tuple(array.sharding.devices_indices_map(array.shape))


def _countable(array: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Itself, or its words where JAX would round it (float64, if not enabled)."""
    if isinstance(array, np.ndarray) and array.dtype.itemsize >= 8:
        return array.reshape(-1).view(np.uint32)
    return array


@jax.jit
def _weighted_sums(arrays: list[jax.Array]) -> list[jax.Array]:
    return [_weighted_sum(_bits(array)) for array in arrays]


def _weighted_sum(bits: jax.Array) -> jax.Array:
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):  # not reshaped: shards stay where they are
        position = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index += position * np.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)


def _bits(array: jax.Array) -> jax.Array:
    dtype = array.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return _bits(jnp.stack([array.real, array.imag], axis=-1))
    if dtype == jnp.bool_:
        return array
    info = jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo
    if info(dtype).bits < 8:
        return _bits(array.astype(jnp.float32))
    size = min(dtype.itemsize, 4)  # float64 becomes two words of 32 bits
    return lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * size}"))


def _check_same_everywhere(leaves: list[_Leaf], checksums: list[int]) -> None:
    if jax.process_count() == 1:
        return
    found = multihost_utils.process_allgather(np.array(checksums, np.uint32))
    for leaf, values in zip(leaves, np.asarray(found).T, strict=True):
        if len(set(values.tolist())) > 1:
            raise ValueError(
                f"state{leaf.path} differs between processes: make it the same on all, "
                f"or one array over the devices of all."
            )


def _first_difference(
    saved: list[_Leaf], wanted: list[_Leaf]
) -> tuple[str, str, str] | None:
    """The path, and what is there in the one and in the other."""
    told_saved = {leaf.path: str(leaf) for leaf in saved}
    told_wanted = {leaf.path: str(leaf) for leaf in wanted}
    for path in {**told_wanted, **told_saved}:
        told = told_saved.get(path, "nothing"), told_wanted.get(path, "nothing")
        if told[0] != told[1]:
            return path, *told
    if list(told_saved) != list(told_wanted):
        return "", f"in the order {list(told_saved)}", f"{list(told_wanted)}"
    return None


def _as_json(name: str, value: Any) -> Any:
    """`value` as it comes back from JSON; refuses what would not."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}: use strings for keys.")
        return {key: _as_json(f"{name}.{key}", item) for key, item in value.items()}
    raise TypeError(
        f"{name} must be JSON data, got {reprlib.repr(value)} of type "
        f"{type(value).__name__}: use numbers, strings, lists and dicts, e.g. int(...) "
        f"or .tolist() of an array, and put arrays into the state."
    )


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _differences(path: str, saved: Any, now: Any) -> Iterator[str]:
    """Each field that differs, by its dotted path, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in {**now, **saved}:
            pair = (side.get(key, ...) for side in (saved, now))
            yield from _differences(f"{path}.{key}".lstrip("."), *pair)
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for i, pair in enumerate(zip(saved, now, strict=True)):
            yield from _differences(f"{path}[{i}]", *pair)
    elif saved != now and not (saved != saved and now != now):  # NaN is as it was
        was, is_now = (
            "not there" if value is ... else reprlib.repr(value)
            for value in (saved, now)
        )
        yield f"{path} was {was}, now it is {is_now}"


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


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_SMALL_FILES))
    except OSError as error:
        raise CheckpointError(
            f"folder {folder} cannot be written ({error}): choose another, or make it "
            f"a folder that can."
        ) from error


def _check_room(folder: Path, likes: list[Any], keep_last: int) -> None:
    # The latest, the best and the one in the making, less what is there already.
    there = sum(entry.name[:1].isdigit() for entry in folder.iterdir())
    num_checkpoints = max(keep_last + 2 - there, 1)
    stored = [_stored_as(like) for like in likes]
    num_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in stored)
    needed, free = num_checkpoints * num_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"folder {folder} has {free / 1e6:,.1f} MB free, but {num_checkpoints} "
            f"checkpoints need {needed / 1e6:,.1f} MB: make room, choose another "
            f"folder, or lower keep_last={keep_last}."
        )
