"""Hard selection: the highest scores."""

from functools import partial

import jax
from jax.sharding import Mesh

from attent_jax._factories import described
from attent_jax._partition import sortable
from attent_jax.selectors._selection import (
    check_mesh,
    check_pool,
    divide,
    select_largest,
)
from attent_jax.typing import SelectFn


@described
def top_k(*, nan_first: bool = False, mesh: Mesh | None = None) -> SelectFn:
    """Select the examples with the highest scores: the paper's *Hard*.

    Of equal scores those with lower indices are taken. NaN scores are taken last,
    after −inf.

    Args:
      nan_first: take NaN scores first instead, e.g. where NaN means "never scored".
      mesh: divide the work over the devices of a mesh, for pools of millions. The
        selection is the same, bit for bit. Each device reads its part of the scores.
        Every device holds the whole Selection: the devices exchange four bytes per
        example, and each of them writes all of it.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`; `rng` is not used. Scores are a
      jax or NumPy array or a list, of any float type (float64 is rounded to float32
      where x64 is off), and with a mesh split over it or not. A traced `num_selected`
      is clamped into [0, pool].

    Raises:
      TypeError: for a mesh that is no `jax.sharding.Mesh`; from the selector, for
        scores that are not floating point, or a count that is no integer.
      ValueError: from the selector, for an empty pool, a pool of 2³¹ examples or more,
        scores that are not `[pool]`, or a concrete `num_selected` outside [1, pool].

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.top_k()
      >>> selection = select(jax.random.key(0), jnp.array([0.1, 2.0, 0.5]), 2)
      >>> selection.indices.tolist(), selection.weights.tolist()
      ([1, 2, 0], [1.0, 1.0, 0.0])

    Reference: Nonparametric Teaching of Attention Learners (arXiv 2602.20461), Alg. 1.
    """
    check_mesh(mesh)

    def select(rng, scores, num_selected):
        """`(rng, scores[pool], num_selected) -> Selection` of the highest scores."""
        scores, num_selected = check_pool(scores, num_selected)
        return _select(scores, num_selected, nan_first=nan_first, mesh=mesh)

    return select


@partial(jax.jit, static_argnames=("nan_first", "mesh"))
def _select(scores, num_selected, *, nan_first, mesh):
    keys = sortable(divide(scores, mesh), nan_first=nan_first)
    return select_largest(scores.size, num_selected, keys, mesh=mesh)
