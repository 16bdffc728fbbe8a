"""Hard selection: the highest scores."""

from attent_jax._partition import LargestFn, largest, sortable
from attent_jax.selectors._selection import check_scores, select_marked
from attent_jax.typing import SelectFn


def top_k(*, nan_first: bool = False) -> SelectFn:
    """Select the examples with the highest scores: the paper's *Hard*.

    Equal scores are taken by lower index. NaN scores are taken last, after −inf.

    Args:
      nan_first: take NaN scores first instead, e.g. where NaN means "never scored".

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`; `rng` is not used.

    Raises:
      ValueError: from the selector, for an empty pool, scores that are not `[pool]`,
        or a Python `num_selected` outside [1, pool].
      TypeError: from the selector, for scores that are not floating point.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.top_k()
      >>> selection = select(jax.random.key(0), jnp.array([0.1, 2.0, 0.5]), 2)
      >>> selection.indices.tolist(), selection.weights.tolist()
      ([1, 2, 0], [1.0, 1.0, 0.0])

    Reference: Nonparametric Teaching of Attention Learners (arXiv 2602.20461), Alg. 1.
    """
    return build_top_k(largest, nan_first=nan_first)


def build_top_k(largest: LargestFn, *, nan_first: bool) -> SelectFn:
    """`top_k` by a `largest` of the caller's, e.g. one over several devices."""

    def select(rng, scores, num_selected):
        num_selected = check_scores(scores, num_selected)
        mask = largest(num_selected, sortable(scores, nan_first=nan_first))
        return select_marked(mask, num_selected)

    return select
