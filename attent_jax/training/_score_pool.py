"""Score a whole pool."""

from collections import deque
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from attent_jax._checks import check_per_example, check_rng
from attent_jax.data._fetch import fetch_batches
from attent_jax.data._pools import Pool, check_batch_size, check_pool
from attent_jax.distributed._global_arrays import count_shards
from attent_jax.training._train_step import TrainState
from attent_jax.training._weighted_loss import check_loss_fn
from attent_jax.typing import Params, Rng, ScoreFn

_NUM_IN_FLIGHT = 2  # the next batch is fetched while the device works on one


def score_pool(
    score_fn: ScoreFn,
    params: Params,
    pool: Pool,
    *,
    batch_size: int = 1024,
    rng: Rng = None,
    sharding: NamedSharding | None = None,
) -> Float[Array, "pool"]:
    """Stream a pool through a score function, each example exactly once.

    Compiles once for each `score_fn` and batch size. Keep the function: one that is
    made for each call (a lambda, a bound method) compiles in each call. Batches are
    read ahead if the pool has `num_threads`.

    Args:
      score_fn: `(params, rng, batch) -> [batch]`.
      params: the learner's parameters.
      pool: the examples.
      batch_size: examples per call. Scores that need forward passes alone take larger
        batches than training does. The last batch is padded, and the scores of its
        padding are dropped. At most the pool's size or 2²⁰, whichever is larger.
      rng: a key for scores that need randomness (a mask, for instance), folded with
        each batch's number: the same key, pool and batch size give the same scores,
        on any number of devices that divides the batch. None: deterministic.
      sharding: how a batch is split over the devices of all processes, e.g.
        `distributed.batch_sharding(mesh)`. Each process then reads its own rows of
        every batch, and the batch size is rounded up to a multiple of the shards.
        Parameters may lie on the same mesh in any way.

    Returns:
      `[pool]` scores by id. With `sharding` they are split over the devices in the
      same way if the pool's size is a multiple of the number of shards, and replicated
      over the mesh if not. Selectors with `mesh=` take both.

    Raises:
      TypeError: if score_fn does not take `(params, rng, batch)`, returns a tuple or is
        not hashable, params is a `TrainState`, pool is not a pool, batch_size is not an
        integer, or rng is not a typed key.
      ValueError: if batch_size is out of range, or score_fn does not return one score
        per example.

    Example:
      >>> import numpy as np, attent_jax
      >>> pool = attent_jax.data.ArrayPool(np.arange(5.0, dtype=np.float32))
      >>> attent_jax.training.score_pool(
      ...     lambda params, rng, batch: batch * params, 2.0, pool, batch_size=2)
      Array([0., 2., 4., 6., 8.], dtype=float32)
    """
    _check_score_fn(score_fn)
    if isinstance(params, TrainState):
        raise TypeError("params is a TrainState: pass its parameters, state.params.")
    check_rng("rng", rng, optional=True)
    num_examples = check_pool(pool)
    batch_size = min(check_batch_size(batch_size, num_examples), num_examples)
    if sharding is not None:
        batch_size += -batch_size % count_shards(sharding)

    def ids_of_batch(number: int) -> np.ndarray:
        start = number * batch_size
        return np.minimum(np.arange(start, start + batch_size), num_examples - 1)

    compiled = jax.jit(score_fn)
    num_batches = -(-num_examples // batch_size)
    batches = fetch_batches(pool, ids_of_batch, num_batches, batch_size, sharding)
    scores, in_flight = [], deque()
    for number, batch in enumerate(batches):
        batch_rng = None if rng is None else jax.random.fold_in(rng, number)
        scores.append(compiled(params, batch_rng, batch))
        del batch  # or it would be held while the next one is fetched
        check_per_example("score_fn", scores[-1], batch_size)
        in_flight.append(scores[-1])
        if len(in_flight) > _NUM_IN_FLIGHT:
            in_flight.popleft().block_until_ready()
    return _join(scores, num_examples, sharding)


def _check_score_fn(score_fn: Any) -> None:
    check_loss_fn("score_fn", score_fn)
    try:
        hash(score_fn)
    except TypeError:
        raise TypeError(
            f"score_fn must be hashable, got {type(score_fn).__name__}, by which "
            f"compiled functions are kept: wrap it in a function."
        ) from None


@partial(jax.jit, static_argnums=(1, 2))
def _join(
    scores: list[Float[Array, "batch"]],
    num_examples: int,
    sharding: NamedSharding | None,
) -> Float[Array, "pool"]:
    """The scores of all batches without those of the padding."""
    if sharding is None:
        return jnp.concatenate(scores)[:num_examples]
    shard_axes = sharding.spec[0] if len(sharding.spec) else None
    is_even = num_examples % count_shards(sharding) == 0
    pool_axes = PartitionSpec(shard_axes if is_even else None)

    def lay_out(array, spec):
        return lax.with_sharding_constraint(array, NamedSharding(sharding.mesh, spec))

    stacked = lay_out(jnp.stack(scores), PartitionSpec(None, shard_axes))
    joined = lay_out(stacked.reshape(-1), pool_axes)
    return lay_out(joined[:num_examples], pool_axes)
