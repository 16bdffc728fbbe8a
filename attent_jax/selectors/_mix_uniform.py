"""A uniform share in any selection."""

import jax
import jax.numpy as jnp
from jax import lax

from attent_jax._checks import check_number, check_rng
from attent_jax._partition import largest
from attent_jax.selectors._selection import check_scores, select_marked
from attent_jax.typing import SelectFn, Selection


def mix_uniform(select_fn: SelectFn, share: float) -> SelectFn:
    """Let `select_fn` choose 1 − share of the selection, and draw the rest uniformly.

    The uniform part, floor(share · num_selected) examples, is drawn from those that
    `select_fn` left, with weight 1; `select_fn`'s keep their weights.

    Args:
      select_fn: any selector.
      share: the uniform share, in [0, 1].

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`.

    Raises:
      ValueError: for a share outside [0, 1]; from the selector as in `top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.mix_uniform(attent_jax.selectors.top_k(), 0.5)
      >>> selection = select(jax.random.key(0), jnp.arange(100.0), 4)
      >>> {98, 99} <= set(selection.indices[:4].tolist())
      True
    """
    share = check_number("share", share, low=0.0, high=1.0)

    def select(rng, scores, num_selected):
        check_rng("rng", rng)
        num_selected = check_scores(scores, num_selected)
        rng_chosen, rng_uniform = jax.random.split(rng)
        num_chosen = num_selected - (share * num_selected).astype(jnp.int32)
        chosen = select_fn(rng_chosen, scores, num_chosen)
        is_chosen = lax.iota(jnp.int32, scores.size) < num_chosen
        keys = jax.random.bits(rng_uniform, scores.shape, jnp.uint32) >> 1
        keys = jnp.where(is_chosen, jnp.uint32(1 << 31), keys)
        drawn = select_marked(largest(num_selected, keys), num_selected)
        weights = jnp.where(is_chosen, chosen.weights, 1.0)
        return Selection(
            indices=chosen.indices[drawn.indices],
            weights=weights[drawn.indices] * drawn.weights,
            num_selected=num_selected,
        )

    return select
