"""Leaves of a state: described, stored as arrays, checksummed and restored."""

import re
import reprlib
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding
from jaxtyping import PyTree

NUMBERS = bool, int, float, complex


class Leaf(NamedTuple):
    """What a leaf is, without its values."""

    path: str
    shape: Sequence[int]
    dtype: str
    weak_type: bool

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def describe_leaves(name: str, tree: PyTree) -> list[Leaf]:
    """The leaves of the argument `name`; refuses what is not an array or a number."""
    return [
        _describe(name, jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _describe(name: str, path: str, leaf: Any) -> Leaf:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        weak_type = bool(getattr(leaf, "weak_type", False))
        return Leaf(path, leaf.shape, leaf.dtype.name, weak_type)
    is_number = type(leaf) in NUMBERS
    if is_number or isinstance(leaf, np.ndarray | np.generic):
        array = np.asarray(leaf)
        is_numeric = jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_
        is_too_large = type(leaf) is int and array.dtype != np.int64
        if is_numeric and not is_too_large:
            dtype = type(leaf).__name__ if is_number else array.dtype.name
            return Leaf(path, array.shape, dtype, weak_type=False)
    raise TypeError(
        f"{name}{path} must be an array or a number, got {reprlib.repr(leaf)} of "
        f"type {type(leaf).__name__}: make an array of it, or put it into the "
        f"position."
    )


def file_names(leaves: list[Leaf]) -> list[str]:
    """The leaves' names on disk: their numbers and a readable form of their paths."""
    return [
        re.sub(r"\W+", "_", f"{i}{leaf.path}", flags=re.ASCII).strip("_")
        for i, leaf in enumerate(leaves)
    ]


def first_difference(
    saved: list[Leaf], wanted: list[Leaf]
) -> tuple[str, str, str] | None:
    """The path of the first leaf that differs, and what it is in both."""
    in_saved = {leaf.path: str(leaf) for leaf in saved}
    in_wanted = {leaf.path: str(leaf) for leaf in wanted}
    for path in {**in_wanted, **in_saved}:
        found = in_saved.get(path, "nothing"), in_wanted.get(path, "nothing")
        if found[0] != found[1]:
            return path, *found
    if list(in_saved) != list(in_wanted):
        return "", f"in the order {list(in_saved)}", f"{list(in_wanted)}"
    return None


def abstract(leaf: Any) -> Any:
    """A leaf without its memory: all that restoring needs of it."""
    if isinstance(leaf, jax.Array):
        sharding = leaf.sharding if leaf.committed else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if isinstance(leaf, np.ndarray):
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return leaf


def stored(leaf: Any) -> jax.Array | np.ndarray:
    """The array that is written for a leaf."""
    if not isinstance(leaf, jax.Array):
        array = np.asarray(leaf)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf) if is_held_alone(leaf.sharding) else leaf


def stored_as(like: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of the array that is written for an abstract leaf."""
    if not isinstance(like, jax.ShapeDtypeStruct):
        array = np.asarray(like)
        return jax.ShapeDtypeStruct(array.shape, array.dtype.newbyteorder("="))
    return jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like


def restored(like: Any, array: jax.Array | np.ndarray, *, weak_type: bool) -> Any:
    """The leaf that was written as `array`, with the type and place of `like`."""
    if type(like) in NUMBERS:
        return type(like)(array[()])
    if not isinstance(like, jax.ShapeDtypeStruct):
        return array if isinstance(like, np.ndarray) else array[()]
    placed = jax.device_put(array, like.sharding)
    if _is_key(like):
        return jax.random.wrap_key_data(placed, impl=_key_impl(like))
    return _as_weak_type(placed, like.sharding) if weak_type else placed


def is_held_alone(sharding: Sharding) -> bool:
    """Whether one of several processes holds the array by itself.

    Orbax takes arrays that the processes hold together, or NumPy arrays that are the
    same on all.
    """
    return jax.process_count() > 1 and sharding.is_fully_addressable


def _as_weak_type(array: jax.Array, sharding: Sharding | None) -> jax.Array:
    # A strong type would promote other arrays, and compile functions again.
    zero = jnp.asarray({"i": 0, "f": 0.0, "c": 0j}.get(array.dtype.kind, False))
    weak = jax.device_put(jnp.broadcast_to(zero, array.shape), sharding)
    return weak.at[...].set(array) if zero.dtype == array.dtype else array


def _is_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(like: jax.ShapeDtypeStruct) -> Any:
    impls = []  # from a traced key, as key_impl does not take an abstract one
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), like)
    return impls[0]


def checksums_of(arrays: Sequence[jax.Array | np.ndarray]) -> list[int]:
    """Of each array: the sum of mix(bits[i] + 0x9E3779B9 · (i + 1)), modulo 2^32.

    It is computed where the array is, and is the same in any order and over any shards.
    The mixing function is MurmurHash3's finalizer, a bijection: a change of any one
    entry changes the sum, and changes of several do not cancel but by chance.
    """
    by_devices = defaultdict(list)  # a jitted function takes one set of devices
    for i, array in enumerate(arrays):
        by_devices[_devices(array)].append(i)
    checksums = [0] * len(arrays)
    for members in by_devices.values():
        summed = _sums_of_mixed([_countable(arrays[i]) for i in members])
        for i, checksum in zip(members, jax.device_get(summed), strict=True):
            checksums[i] = int(checksum)
    return checksums


def checksum(tree: PyTree) -> int:
    """A checksum of a state's bits, the same however it is split over devices.

    It is computed where the arrays are. Log it to see whether two runs are the same.

    Args:
      tree: any pytree of arrays, typed keys and numbers. With several processes, each
        calls this function.

    Returns:
      An integer of 32 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> from attent_jax.checkpointing import checksum
      >>> params = {"w": jnp.arange(6.0)}
      >>> checksum(params) == checksum({"w": jnp.arange(6.0)})
      True
      >>> checksum(params) == checksum({"w": -jnp.arange(6.0)})
      False
    """
    checksums = checksums_of([stored(leaf) for leaf in jax.tree.leaves(tree)])
    return zlib.crc32(np.array(checksums, "<u4").tobytes())


def check_same_everywhere(paths: list[str], checksums: list[int]) -> None:
    """Refuse a state that differs between processes."""
    if jax.process_count() == 1:
        return
    found = multihost_utils.process_allgather(np.array(checksums, np.uint32))
    for path, values in zip(paths, np.asarray(found).T, strict=True):
        if len(set(values.tolist())) > 1:
            raise ValueError(
                f"state{path} differs between processes: make it the same on all, "
                f"or one array over the devices of all."
            )


def _devices(array: jax.Array | np.ndarray) -> Any:
    if isinstance(array, np.ndarray) or not array.committed:
        return None
    if isinstance(array.sharding, NamedSharding):
        return array.sharding.mesh
    return tuple(array.sharding.devices_indices_map(array.shape))


def _countable(array: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """The array, or its words where JAX would round it (float64, if not enabled)."""
    if isinstance(array, np.ndarray) and array.dtype.itemsize >= 8:
        return array.reshape(-1).view(np.uint32)
    return array


@jax.jit
def _sums_of_mixed(arrays: list[jax.Array]) -> list[jax.Array]:
    return [_sum_of_mixed(_bits(array)) for array in arrays]


def _sum_of_mixed(bits: jax.Array) -> jax.Array:
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):  # without a reshape, which moves shards
        position = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index += position * np.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    mixed = bits.astype(jnp.uint32) + (index + 1) * np.uint32(0x9E3779B9)
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


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
