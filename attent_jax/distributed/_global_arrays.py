"""Arrays over all devices of all processes, from what each process holds or reads."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jaxtyping import Int

from attent_jax.data._pools import Pool  # attent_jax.data imports this module
from attent_jax.typing import Batch


def put(tree: Any, shardings: Any) -> Any:
    """Lay values that every process knows whole out over the devices of all.

    Nothing is sent: each process copies its devices' parts out of its own values,
    which must be the same everywhere.

    Args:
      tree: host values: numpy or jax arrays, typed keys, Python numbers.
      shardings: one sharding for all leaves, or a pytree of them like `tree`, as of
        `fsdp_shardings`.

    Returns:
      A pytree like `tree` of global arrays.

    Raises:
      ValueError: if `shardings` is not like `tree`, or a leaf does not divide over its
        sharding.

    Example:
      >>> import numpy as np, attent_jax
      >>> distributed = attent_jax.distributed
      >>> mesh = distributed.make_mesh()
      >>> state = {"w": np.ones((2, 3)), "step": 0}
      >>> state = distributed.put(state, distributed.replicated(mesh))
      >>> state["w"].sharding.is_fully_replicated, int(state["step"])
      (True, 0)
    """

    def lay_out(leaf, sharding: Sharding) -> jax.Array:
        values = _on_host(leaf)
        return jax.make_array_from_callback(
            values.shape, sharding, lambda index: values[index]
        )

    return jax.tree.map(lay_out, tree, jax.tree.broadcast(shardings, tree))


def local_rows(sharding: NamedSharding, num_rows: int) -> Int[np.ndarray, "rows"]:
    """Which rows of a global batch this process feeds, in ascending order.

    Those of its own devices; they need not be contiguous. Over all processes they are
    every row, each once if the sharding splits them over all devices.

    Args:
      sharding: splits the leading axis, e.g. `batch_sharding(mesh)`.
      num_rows: examples in the global batch.

    Raises:
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


def take(pool: Pool, ids: Int[np.ndarray, "batch"], sharding: NamedSharding) -> Batch:
    """The examples of these ids as global arrays, each process reading its own rows.

    Args:
      pool: the examples; every process has access to all of them.
      ids: `[batch]` the same on every process.
      sharding: splits the leading axis, e.g. `batch_sharding(mesh)`.

    Returns:
      A batch with leaves `[batch, ...]`, split by `sharding`.

    Raises:
      ValueError: if the number of ids does not divide over the shards.

    Example:
      >>> import numpy as np, attent_jax
      >>> distributed = attent_jax.distributed
      >>> mesh = distributed.make_mesh()
      >>> pool = attent_jax.data.ArrayPool(np.arange(100.0))
      >>> ids = np.arange(mesh.size) * 3
      >>> batch = distributed.take(pool, ids, distributed.batch_sharding(mesh))
      >>> bool((batch == ids).all()), len(batch.sharding.device_set) == mesh.size
      (True, True)
    """
    rows = local_rows(sharding, len(ids))
    return join_rows(pool.take(np.asarray(ids)[rows]), rows, len(ids), sharding)


def join_rows(
    batch: Batch, rows: Int[np.ndarray, "rows"], num_rows: int, sharding: NamedSharding
) -> Batch:
    """The global arrays of `num_rows` of which `batch` has this process's `rows`."""

    def join(leaf) -> jax.Array:
        def part(index: Any):
            start, stop, _ = index[0].indices(num_rows)
            first = int(np.searchsorted(rows, start))
            return leaf[(slice(first, first + stop - start), *index[1:])]

        shape = (num_rows, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(join, batch)


def _on_host(leaf: Any) -> Any:
    """The values of what may lie on many devices; typed keys on one of them."""
    dtype = getattr(leaf, "dtype", type(leaf))
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return np.asarray(leaf)
    bits = jnp.asarray(np.asarray(jax.random.key_data(leaf)))
    return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))


def count_shards(sharding: NamedSharding) -> int:
    """Into how many parts the leading axis is split."""
    names = sharding.spec[0] if len(sharding.spec) else None
    names = (names,) if isinstance(names, str) else names or ()
    return int(np.prod([sharding.mesh.shape[name] for name in names], dtype=int))
