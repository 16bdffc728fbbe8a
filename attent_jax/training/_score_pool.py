"""A whole pool scored."""

from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from attent_jax._checks import check_count, check_per_example, check_rng
from attent_jax.data import Pool
from attent_jax.distributed import take
from attent_jax.distributed._global_arrays import count_shards
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

    Compiles once for a `score_fn`: keep it, do not build it anew for each call (a bound
    method is anew each time).

    Args:
      score_fn: `(params, rng, batch) -> [batch]`.
      params: the learner's parameters.
      pool: the examples.
      batch_size: examples per call; forward passes alone take larger ones than
        training does. The last batch is padded, its padding's scores dropped.
      rng: a key for scores that need randomness (a mask, say), folded with each
        batch's number: with the same key, pool and batch size an example meets the
        same randomness every time. None: deterministic.
      sharding: how a batch is split over the devices of all processes, e.g.
        `distributed.batch_sharding(mesh)`. Each process then reads its own rows of
        every batch, and the batch size is rounded up to a multiple of the shards.
        Parameters may lie on the same mesh in any way.

    Returns:
      `[pool]` scores by id; with `sharding` replicated over its mesh.

    Raises:
      TypeError, ValueError: for a batch_size that is no integer >= 1, an rng that is
        no typed key, or a score_fn that does not return one score per example.

    Example:
      >>> import numpy as np, attent_jax
      >>> pool = attent_jax.data.ArrayPool(np.arange(5.0, dtype=np.float32))
      >>> attent_jax.training.score_pool(
      ...     lambda params, rng, batch: batch * params, 2.0, pool, batch_size=2)
      Array([0., 2., 4., 6., 8.], dtype=float32)
    """
    check_rng("rng", rng, optional=True)
    batch_size = min(check_count("batch_size", batch_size), len(pool))
    if sharding is None:
        compiled, fetch = jax.jit(score_fn), pool.take
    else:
        batch_size += -batch_size % count_shards(sharding)
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        compiled = jax.jit(score_fn, out_shardings=everywhere)
        fetch = partial(take, pool, sharding=sharding)
    scores, in_flight = [], deque()
    for number, start in enumerate(range(0, len(pool), batch_size)):
        ids = np.minimum(np.arange(start, start + batch_size), len(pool) - 1)
        batch_rng = None if rng is None else jax.random.fold_in(rng, number)
        scores.append(compiled(params, batch_rng, fetch(ids)))
        check_per_example("score_fn", scores[-1], batch_size)
        in_flight.append(scores[-1])
        if len(in_flight) > _NUM_IN_FLIGHT:
            in_flight.popleft().block_until_ready()
    return jnp.concatenate(scores)[: len(pool)]
