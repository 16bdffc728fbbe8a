"""A selection turned into an epoch of batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from attent_jax._checks import check_count
from attent_jax.data._pools import Pool
from attent_jax.distributed._global_arrays import join_rows, local_rows
from attent_jax.typing import Batch, Selection


class EpochOrder(NamedTuple):
    """Which examples each step of an epoch trains on."""

    ids: Int[np.ndarray, "steps batch"]
    """`[steps, batch]`"""
    weights: Float[np.ndarray, "steps batch"]
    """`[steps, batch]` the selection's loss weights; 0 for the last batch's padding."""


def epoch_order(
    selection: Selection, batch_size: int, seed: int | Sequence[int]
) -> EpochOrder:
    """Shuffle the selected examples and cut them into batches, on the host.

    Every selected example comes exactly once. The last batch is padded to `batch_size`
    with a copy of one example at weight 0, so that no shape depends on the ratio.

    Args:
      selection: a teacher's `state.selection`.
      batch_size: examples in a step.
      seed: any number of non-negative integers; one seed, one order. Let the epoch be
        one of them, else every epoch comes in the same order.

    Returns:
      An `EpochOrder`.

    Raises:
      TypeError, ValueError: if batch_size is no integer >= 1.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> selection = attent_jax.selectors.top_k()(
      ...     jax.random.key(0), jnp.arange(10.0), 5)
      >>> order = attent_jax.data.epoch_order(selection, batch_size=3, seed=(0, 7))
      >>> order.ids.shape, sorted(order.ids[order.weights > 0].tolist())
      ((2, 3), [5, 6, 7, 8, 9])
    """
    batch_size = check_count("batch_size", batch_size)
    indices, weights, num_selected = jax.device_get(selection)
    shuffled = np.random.default_rng(seed).permutation(int(num_selected))
    num_padded = -len(shuffled) % batch_size
    ids = np.pad(indices[shuffled], (0, num_padded), mode="edge")
    weights = np.pad(weights[shuffled], (0, num_padded))
    return EpochOrder(ids.reshape(-1, batch_size), weights.reshape(-1, batch_size))


def epoch_batches(
    pool: Pool,
    selection: Selection,
    batch_size: int,
    seed: int | Sequence[int],
    *,
    sharding: NamedSharding | None = None,
) -> Iterator[tuple[Batch, Float[np.ndarray | Array, "batch"]]]:
    """The batches of an epoch, in `epoch_order`, fetched ahead where the pool is slow.

    Args:
      pool: the examples.
      selection: a teacher's `state.selection` for this pool.
      batch_size: examples in a step, on all devices together.
      seed: as in `epoch_order`.
      sharding: how a batch is split over the devices of all processes, e.g.
        `distributed.batch_sharding(mesh)`. Each process then reads its own rows of
        every batch, and batches and weights are global arrays. None: numpy's.

    Returns:
      An iterator over (batch, weights), leaves and weights `[batch_size, ...]`.

    Raises:
      TypeError, ValueError: if batch_size is no integer >= 1 or does not divide over
        the shards, or the selection is of another pool.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, attent_jax
      >>> pool = attent_jax.data.ArrayPool(np.arange(10.0) * 11)
      >>> selection = attent_jax.selectors.top_k()(
      ...     jax.random.key(0), jnp.arange(10.0), 3)
      >>> batches = attent_jax.data.epoch_batches(pool, selection, 2, seed=0)
      >>> for batch, weights in batches:
      ...     print(batch, weights)
      [99. 77.] [1. 1.]
      [88. 88.] [1. 0.]
    """
    if selection.indices.size != len(pool):
        raise ValueError(
            f"selection is of a pool of {selection.indices.size} examples but pool has "
            f"{len(pool)}: initialise the teacher with len(pool)."
        )
    ids, weights = epoch_order(selection, batch_size, seed)
    rows = np.arange(batch_size)
    if sharding is not None:
        rows = local_rows(sharding, batch_size)
    steps = grain.MapDataset.range(len(ids))
    fetched = steps.map(lambda step: (pool.take(ids[step, rows]), weights[step, rows]))
    options = grain.ReadOptions(
        num_threads=pool.num_threads, prefetch_buffer_size=2 * pool.num_threads
    )
    batches = iter(fetched.to_iter_dataset(options))
    if sharding is None:
        return batches
    # Here and not among what is fetched ahead, which would fill the devices' memory.
    return (join_rows(batch, rows, batch_size, sharding) for batch in batches)
