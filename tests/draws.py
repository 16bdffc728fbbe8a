"""Many draws of a random selector, compiled once for all counts."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from attent_jax.typing import SelectFn


def draws(select: SelectFn, scores, num_selected: int, num_draws: int) -> np.ndarray:
    """`[draws, pool]` whether each example is selected, by the same keys each time."""
    rngs = jax.random.split(jax.random.key(0), num_draws)
    return np.asarray(_compiled(select)(rngs, jnp.asarray(scores), num_selected))


@cache
def _compiled(select):
    def one(rng, scores, num_selected):
        selection = select(rng, scores, num_selected)
        selected = jnp.zeros(scores.shape, bool)
        return selected.at[selection.indices].set(selection.weights > 0)

    return jax.jit(jax.vmap(one, in_axes=(0, None, None)))
