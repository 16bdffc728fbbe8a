"""Checksums of arrays, computed where the arrays are."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


def checksums_of(arrays: Sequence[jax.Array | np.ndarray]) -> list[int]:
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


def check_same_everywhere(paths: list[str], checksums: list[int]) -> None:
    """Refuse a state that is not the same on all processes."""
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
