"""Arrays over the devices of all processes, from values on the hosts and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, Sharding
from jaxtyping import Int

from attent_jax.typing import Batch


def put(tree: Any, shardings: Any) -> Any:
    """Shard identical host values over the mesh.

    Every process passes the same values and copies the parts of its own devices. No
    data moves between processes.

    Args:
      tree: host values: numpy or jax arrays, typed keys, Python numbers.
      shardings: one sharding for all leaves, or a pytree of shardings with the
        structure of `tree`, e.g. from `fsdp_shardings`.

    Returns:
      A pytree with the structure of `tree`, its leaves global arrays.

    Raises:
      TypeError: if a leaf of `shardings` is not a sharding.
      ValueError: if `shardings` has another structure than `tree`, or a leaf does not
        divide over its sharding.

    Example:
      >>> import numpy as np, attent_jax
      >>> distributed = attent_jax.distributed
      >>> mesh = distributed.make_mesh()
      >>> state = {"w": np.ones((2, 3)), "step": 0}
      >>> state = distributed.put(state, distributed.replicated(mesh))
      >>> state["w"].sharding.is_fully_replicated, int(state["step"])
      (True, 0)
    """

    def lay_out(leaf, sharding: Any) -> jax.Array:
        if not isinstance(sharding, Sharding):
            raise TypeError(
                f"shardings must hold shardings, got {type(sharding).__name__}: pass "
                f"e.g. attent_jax.distributed.replicated(mesh)."
            )
        values = _on_host(leaf)
        return jax.make_array_from_callback(
            values.shape, sharding, lambda index: values[index]
        )

    return jax.tree.map(lay_out, tree, jax.tree.broadcast(shardings, tree))


def local_rows(sharding: NamedSharding, num_rows: int) -> Int[np.ndarray, "rows"]:
    """Which rows of a global batch this process reads, in ascending order.

    These are the rows of its own devices, and need not be contiguous. All processes
    together read every row, each once if the sharding splits them over all devices.

    Args:
      sharding: splits the leading axis, e.g. `batch_sharding(mesh)`.
      num_rows: number of examples in the global batch.

    Raises:
      TypeError: if sharding is not a `NamedSharding`.
      ValueError: if num_rows does not divide over the shards.

    Example:
      >>> import jax, attent_jax
      >>> distributed = attent_jax.distributed
      >>> mesh = distributed.make_mesh(devices=jax.devices()[:1])
      >>> distributed.local_rows(distributed.batch_sharding(mesh), 4)
      array([0, 1, 2, 3])
    """
    num_shards = count_shards(sharding)
    if num_rows % num_shards:
        above = num_rows + -num_rows % num_shards
        raise ValueError(
            f"a batch of {num_rows} examples does not divide over {num_shards} shards: "
            f"choose a multiple of {num_shards}, e.g. {above}."
        )
    parts = sharding.addressable_devices_indices_map((num_rows,)).values()
    everyone = np.arange(num_rows)
    return np.unique(np.concatenate([everyone[part] for part in parts]))


def join_rows(
    batch: Batch, rows: Int[np.ndarray, "rows"], num_rows: int, sharding: NamedSharding
) -> Batch:
    """Global arrays of `num_rows` rows; `batch` holds this process's `rows` of them."""

    def join(leaf) -> jax.Array:
        def part(index: Any):
            start, stop, _ = index[0].indices(num_rows)
            first = int(np.searchsorted(rows, start))
            return leaf[(slice(first, first + stop - start), *index[1:])]

        shape = (num_rows, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(join, batch)


def _on_host(leaf: Any) -> Any:
    """The leaf's values in NumPy; typed keys as a jax array on one device."""
    dtype = getattr(leaf, "dtype", type(leaf))
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return np.asarray(leaf)
    bits = jnp.asarray(np.asarray(jax.random.key_data(leaf)))
    return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))


def to_host(tree: Any) -> Any:
    """The values in NumPy, on every process, of arrays on any devices."""

    def whole(leaf):
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(
        jax.tree.map(lambda x: whole(x) if isinstance(x, jax.Array) else x, tree)
    )


def count_shards(sharding: Any) -> int:
    """The number of parts that the leading axis is split into."""
    if not isinstance(sharding, NamedSharding):
        raise TypeError(
            f"sharding must be a NamedSharding, got {type(sharding).__name__}: pass "
            f"e.g. attent_jax.distributed.batch_sharding(mesh)."
        )
    names = sharding.spec[0] if len(sharding.spec) else None
    names = (names,) if isinstance(names, str) else names or ()
    return int(np.prod([sharding.mesh.shape[name] for name in names], dtype=int))
