"""Selection that does not depend on the scores' values: the control."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, UInt

from attent_jax._checks import check_rng
from attent_jax._factories import described
from attent_jax.selectors._selection import (
    check_mesh,
    check_pool,
    divide,
    select_largest,
)
from attent_jax.typing import SelectFn


@described
def uniform(*, mesh: Mesh | None = None) -> SelectFn:
    """Draw examples uniformly without replacement: the paper's *Random*.

    Of the scores only `isnan` is read: examples whose score is NaN are taken last.

    Args:
      mesh: as in `top_k`. Each device draws the random bits of its own scores.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`, as `top_k`.

    Raises:
      TypeError, ValueError: as in `gumbel_top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.uniform()
      >>> selection = select(jax.random.key(0), jnp.zeros(8), 3)
      >>> int(selection.num_selected), sorted(selection.indices.tolist())
      (3, [0, 1, 2, 3, 4, 5, 6, 7])
    """
    check_mesh(mesh)

    def select(rng, scores, num_selected):
        """`(rng, scores[pool], num_selected) -> Selection` drawn uniformly."""
        check_rng("rng", rng)
        scores, num_selected = check_pool(scores, num_selected)
        return _select(rng, scores, num_selected, mesh=mesh)

    return select


@partial(jax.jit, static_argnames="mesh")
def _select(rng, scores, num_selected, *, mesh):
    bits = divide(jax.random.bits(rng, scores.shape, jnp.uint32), mesh)
    keys = uniform_keys(bits, ~jnp.isnan(divide(scores, mesh)))
    return select_largest(scores.size, num_selected, keys, mesh=mesh)


def uniform_keys(
    bits: UInt[Array, "pool"], is_scored: Bool[Array, "pool"]
) -> UInt[Array, "pool"]:
    """Keys below 2³¹ in random order, those of scored examples above the others."""
    return (bits >> 2) | (is_scored.astype(bits.dtype) << 30)
