"""Soft selection: a draw weighted by the scores."""

import jax
import jax.numpy as jnp

from attent_jax._checks import check_number, check_rng
from attent_jax._partition import LargestFn, largest, sortable
from attent_jax.selectors._selection import check_scores, select_marked
from attent_jax.typing import SelectFn


def gumbel_top_k(temperature: float = 1.0) -> SelectFn:
    r"""Draw examples without replacement, weighted by score: the paper's *Soft*.

    One after the other, each with probability ∝ exp(score / T) among those not drawn
    yet (Plackett–Luce), by taking the largest score / T + g with g ~ Gumbel(0, 1).
    For one `rng`, a larger `num_selected` adds examples to a smaller one's, in the
    order in which they would be drawn.

    As T → 0 this becomes `top_k` (ties at random), as T → ∞ `uniform`. Scores of ±inf
    come first and last, ties among them at random; NaN comes after −inf.

    Args:
      temperature: T >= 0, in units of the scores. Scores need a scale: see
        `scores.standardize`.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`.

    Raises:
      ValueError: for a negative or NaN temperature; from the selector as in `top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.gumbel_top_k(temperature=0.5)
      >>> scores = jnp.array([0.0, 9.0, 0.0, 9.0])
      >>> select(jax.random.key(0), scores, 2).indices.tolist()
      [1, 3, 0, 2]

    Reference: Kool et al., Stochastic Beams and Where to Find Them (ICML 2019).
    """
    return build_gumbel_top_k(largest, temperature)


def build_gumbel_top_k(largest: LargestFn, temperature: float) -> SelectFn:
    """`gumbel_top_k` by a `largest` of the caller's, e.g. one over several devices."""
    temperature = check_number("temperature", temperature, low=0.0)

    def select(rng, scores, num_selected):
        check_rng("rng", rng)
        num_selected = check_scores(scores, num_selected)
        dtype = jnp.promote_types(scores.dtype, jnp.float32)
        noise = jax.random.gumbel(rng, scores.shape, dtype)
        # score / T + noise, scaled so that no temperature overflows
        wide = scores.astype(dtype)
        scaled = jnp.where(jnp.isinf(wide), wide, wide / max(temperature, 1.0))
        perturbed = scaled + min(temperature, 1.0) * noise
        mask = largest(num_selected, sortable(perturbed), sortable(noise))
        return select_marked(mask, num_selected)

    return select
