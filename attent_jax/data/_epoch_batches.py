"""A selection turned into an epoch of batches, on the host."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from attent_jax._checks import check_count, short
from attent_jax.data._epoch_order import check_selection
from attent_jax.data._fetch import fetch_batches
from attent_jax.data._pools import Pool, check_batch_size, check_pool
from attent_jax.distributed._global_arrays import join_rows, local_rows, to_host
from attent_jax.typing import Batch, Selection


class EpochBatch(NamedTuple):
    """What one step of an epoch trains on."""

    ids: Int[np.ndarray, "batch"]
    """`[batch]` the examples' ids; on the host, and whole on every process."""
    batch: Batch
    """The examples, leaves `[batch, ...]`."""
    weights: Float[Array | np.ndarray, "batch"]
    """`[batch]` the selection's loss weights; 0 for the last batch's padding."""


def epoch_batches(
    pool: Pool,
    selection: Selection,
    batch_size: int,
    seed: int | Sequence[int],
    *,
    sharding: NamedSharding | None = None,
    start: int = 0,
    drop_remainder: bool = False,
) -> Iterator[EpochBatch]:
    """Shuffle the selected examples and iterate over their batches.

    Every selected example appears exactly once. The last batch is padded to
    `batch_size` with copies of one selected example at weight 0, so that no shape
    depends on the ratio. Batches are read ahead if the pool has `num_threads`.

    Args:
      pool: the examples.
      selection: a teacher's `state.selection` for this pool.
      batch_size: examples in a step, on all devices together. At most the pool's size
        or 2²⁰, whichever is larger.
      seed: non-negative integer, or a sequence of them. The order depends only
        on the seed and the selection. Let the epoch be a part of the seed, as in
        `(seed, epoch)`, or every epoch has the same order.
      sharding: how a batch is split over the devices of all processes, e.g.
        `distributed.batch_sharding(mesh)`. Each process then reads its own rows of
        every batch, and batches and weights are global arrays. None: the batch is as
        the pool returns it, and weights are NumPy's.
      start: how many batches to skip. Nothing of them is read, and the others are
        those that the whole epoch has, bit for bit: use it to resume an epoch. Do not
        update the teacher again in that case: pass the selection that you saved.
      drop_remainder: leave out the last batch if it is not full.

    Returns:
      An iterator over `EpochBatch`. The ids are on the host in any case, for
      `ScoreTable.update`.

    Raises:
      TypeError: if pool is not a pool, selection is not a `Selection`, or a number is
        not an integer.
      ValueError: if the selection is of another pool, batch_size is out of range or
        does not divide over the shards, start is beyond the last batch, or
        drop_remainder leaves no batch.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, attent_jax
      >>> pool = attent_jax.data.ArrayPool(np.arange(10.0) * 11)
      >>> selection = attent_jax.selectors.top_k()(
      ...     jax.random.key(0), jnp.arange(10.0), 3)
      >>> for ids, batch, weights in attent_jax.data.epoch_batches(
      ...         pool, selection, batch_size=2, seed=(0, 0)):
      ...     print(ids, batch, weights)
      [9 7] [99. 77.] [1. 1.]
      [8 8] [88. 88.] [1. 0.]
    """
    num_examples = check_pool(pool)
    check_selection(selection)
    if isinstance(selection.num_selected, core.Tracer):
        raise TypeError(
            "epoch_batches runs on the host, but selection is traced: call it outside "
            "of jit, or order the epoch on the device with attent_jax.data.epoch_order."
        )
    if selection.indices.size != num_examples:
        raise ValueError(
            f"selection is of a pool of {selection.indices.size} examples but pool has "
            f"{num_examples}: initialise the teacher with len(pool)."
        )
    batch_size = check_batch_size(batch_size, num_examples)
    ids, weights = _order(selection, batch_size, seed, drop_remainder)
    start = check_count("start", start, minimum=0)
    if start > len(ids):
        raise ValueError(
            f"start must be at most {len(ids)}, the number of batches, got {start}: "
            f"pass the number of batches that this epoch has already trained on."
        )
    ids, weights = ids[start:], weights[start:]
    batches = fetch_batches(pool, ids.__getitem__, len(ids), batch_size, sharding)
    if sharding is not None:
        rows = local_rows(sharding, batch_size)
        weights = (join_rows(row[rows], rows, batch_size, sharding) for row in weights)
    return map(EpochBatch, ids, batches, weights)


def _check_seed(seed: Any) -> list[int]:
    is_sequence = isinstance(seed, Sequence) and not isinstance(seed, str)
    seeds: list[Any] = list(seed) if is_sequence else [seed]
    try:
        for number in seeds:
            operator.index(number)
    except TypeError:
        raise TypeError(
            f"seed must be an integer or a sequence of integers, got "
            f"{_described(seed)}: pass e.g. (seed, epoch)."
        ) from None
    return [check_count("seed", number, minimum=0) for number in seeds]


def _described(seed: Any) -> str:
    is_key = hasattr(seed, "dtype") and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
    return "a jax key" if is_key else f"{short(seed)} of type {type(seed).__name__}"


def _order(
    selection: Selection,
    batch_size: int,
    seed: int | Sequence[int],
    drop_remainder: bool,
) -> tuple[Int[np.ndarray, "steps batch"], Float[np.ndarray, "steps batch"]]:
    """The ids and weights of each step."""
    seeds = _check_seed(seed)
    indices, weights, num_selected = to_host(selection)
    shuffled = np.random.default_rng(seeds).permutation(int(num_selected))
    num_left_over = len(shuffled) % batch_size
    if drop_remainder:
        if num_left_over == len(shuffled):
            raise ValueError(
                f"drop_remainder leaves no batch: {num_selected} examples are selected "
                f"and batch_size is {batch_size}: lower it, or keep the remainder."
            )
        shuffled = shuffled[: len(shuffled) - num_left_over]
    num_padded = -len(shuffled) % batch_size
    ids = np.pad(indices[shuffled], (0, num_padded), mode="edge")
    weights = np.pad(weights[shuffled], (0, num_padded))
    return ids.reshape(-1, batch_size), weights.reshape(-1, batch_size)
