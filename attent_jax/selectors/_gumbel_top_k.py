"""Soft selection: a draw weighted by the scores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from attent_jax._checks import check_number, check_rng
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
def gumbel_top_k(temperature: float = 1.0, *, mesh: Mesh | None = None) -> SelectFn:
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
      mesh: as in `top_k`. Each device draws the noise of its own scores.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`, as `top_k`.

    Raises:
      TypeError: for a temperature that is no number; from the selector, for an `rng`
        that is no typed key, and as in `top_k`.
      ValueError: for a negative or NaN temperature; from the selector as in `top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.gumbel_top_k(temperature=0.5)
      >>> scores = jnp.array([0.0, 9.0, 0.0, 9.0])
      >>> select(jax.random.key(0), scores, 2).indices.tolist()
      [1, 3, 0, 2]

    Reference: Kool et al., Stochastic Beams and Where to Find Them (ICML 2019).
    """
    temperature = check_number("temperature", temperature, low=0.0)
    check_mesh(mesh)

    def select(rng, scores, num_selected):
        """`(rng, scores[pool], num_selected) -> Selection` drawn by score."""
        check_rng("rng", rng)
        scores, num_selected = check_pool(scores, num_selected)
        return select_soft(
            rng, scores, num_selected, temperature=temperature, mesh=mesh
        )

    return select


@partial(jax.jit, static_argnames=("temperature", "mesh"))
def select_soft(rng, scores, num_selected, *, temperature, mesh):
    """`gumbel_top_k` of checked arguments."""
    dtype = np.promote_types(scores.dtype, np.float32)  # any promotion mode
    noise = divide(jax.random.gumbel(rng, scores.shape, dtype), mesh)
    wide = divide(scores, mesh).astype(dtype)
    # score / T + noise, scaled so that no temperature overflows
    scaled = jnp.where(jnp.isinf(wide), wide, wide / max(temperature, 1.0))
    perturbed = scaled + min(temperature, 1.0) * noise
    return select_largest(
        scores.size, num_selected, sortable(perturbed), sortable(noise), mesh=mesh
    )
