"""Batches fetched from a pool, ahead of their use where the pool has threads."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int

from attent_jax._checks import check_count
from attent_jax.data._pools import Pool, check_ids, check_pool
from attent_jax.distributed._global_arrays import join_rows, local_rows
from attent_jax.typing import Batch


def take(
    pool: Pool, ids: Int[np.ndarray, "batch"], *, sharding: NamedSharding | None = None
) -> Batch:
    """The examples of these ids, stacked to one batch.

    Args:
      pool: the examples; every process has access to all of them.
      ids: `[batch]` the same on every process.
      sharding: how the batch is split over the devices of all processes, e.g.
        `distributed.batch_sharding(mesh)`. Each process then reads its own rows, and
        the leaves are global arrays. None: the leaves are as the pool returns them.

    Returns:
      A batch with leaves `[batch, ...]`.

    Raises:
      TypeError, ValueError: if pool is not a pool, an id is outside of it, or the
        number of ids does not divide over the shards.

    Example:
      >>> import numpy as np, attent_jax
      >>> data, distributed = attent_jax.data, attent_jax.distributed
      >>> pool = data.ArrayPool(np.arange(100.0))
      >>> data.take(pool, np.array([7, 3]))
      array([7., 3.])
      >>> mesh = distributed.make_mesh()
      >>> split = distributed.batch_sharding(mesh)
      >>> batch = data.take(pool, np.arange(mesh.size), sharding=split)
      >>> len(batch.sharding.device_set) == mesh.size
      True
    """
    num_examples, ids = check_pool(pool), np.asarray(ids)
    check_ids(ids, num_examples)
    if sharding is None:
        return pool.take(ids)
    rows = local_rows(sharding, len(ids))
    return join_rows(pool.take(ids[rows]), rows, len(ids), sharding)


def fetch_batches(
    pool: Pool,
    ids_of_batch: Callable[[int], Int[np.ndarray, "batch"]],
    num_batches: int,
    batch_size: int,
    sharding: NamedSharding | None,
) -> Iterator[Batch]:
    """The pool's batches in order, `pool.num_threads` of them read at once."""
    if sharding is None:
        return _read_ahead(pool, lambda i: pool.take(ids_of_batch(i)), num_batches)
    rows = local_rows(sharding, batch_size)
    batches = _read_ahead(pool, lambda i: pool.take(ids_of_batch(i)[rows]), num_batches)
    # Moved to the devices here: batches that wait to be used would fill their memory.
    join = partial(join_rows, rows=rows, num_rows=batch_size, sharding=sharding)
    return map(join, batches)


def _read_ahead(
    pool: Pool, read: Callable[[int], Batch], num_batches: int
) -> Iterator[Any]:
    num_threads = check_count(
        "pool.num_threads", getattr(pool, "num_threads", 0), minimum=0
    )
    if not num_threads:
        return map(read, range(num_batches))
    import grain  # here, so that importing attent_jax does not load it

    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=2 * num_threads
    )
    dataset = grain.MapDataset.range(num_batches).map(read)
    return iter(dataset.to_iter_dataset(options))
