"""What every selector shares: its arguments' checks and the Selection it returns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from attent_jax._checks import check_count
from attent_jax._partition import partition
from attent_jax.typing import Selection


def check_scores(scores: Any, num_selected: Any) -> Int[Array, ""]:
    """Refuse scores that are no pool, counts that do not fit; the count, traced."""
    if np.ndim(scores) != 1:
        raise ValueError(
            f"scores must have shape [pool], got shape {np.shape(scores)}: pass one "
            f"score per example."
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(
            f"scores must be floating point, got {scores.dtype}: convert them with "
            f"scores.astype(jnp.float32)."
        )
    if not scores.size:
        raise ValueError("scores is empty: the pool needs at least one example.")
    if not isinstance(num_selected, jax.Array | np.ndarray):
        check_count("num_selected", num_selected)
        if num_selected > scores.size:
            raise ValueError(
                f"num_selected must be at most the pool's {scores.size} examples, got "
                f"{num_selected}: lower it, or enlarge the pool."
            )
    return jnp.asarray(num_selected, jnp.int32)


def select_marked(mask: Bool[Array, "pool"], num_selected: Int[Array, ""]) -> Selection:
    """The Selection of the examples marked, `num_selected` of them."""
    return Selection(
        indices=partition(mask),
        weights=(lax.iota(jnp.int32, mask.size) < num_selected).astype(jnp.float32),
        num_selected=num_selected,
    )
