"""The loss function as train steps call it, and its weighted sum."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attent_jax._checks import check_per_example, leading_size, shown, takes
from attent_jax.typing import Batch, LossFn, Params, Rng

_SCORE_FACTORY = ", or call a factory, e.g. attent_jax.scores.loss(loss_fn)"
LossesAndAux = Callable[[Params, Rng, Batch], tuple[Float[Array, "batch"], Any]]


def with_aux(loss_fn: LossFn | Callable[..., Any], has_aux: bool) -> LossesAndAux:
    """`(params, rng, batch) -> (losses[batch], aux)`, aux None without `has_aux`."""
    check_loss_fn("loss_fn", loss_fn)

    def losses_and_aux(params, rng, batch):
        losses: Any = loss_fn(params, rng, batch)
        if isinstance(losses, tuple) != has_aux:
            raise TypeError(
                f"loss_fn returned {'a' if not has_aux else 'no'} tuple but has_aux is "
                f"{has_aux}: return (losses, aux) if and only if has_aux=True."
            )
        losses, aux = losses if has_aux else (losses, None)
        check_per_example("loss_fn", losses, leading_size("batch", batch))
        dtype = jnp.result_type(losses)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"loss_fn must return floating point, got {dtype}, which has no "
                f"gradient: return a differentiable loss."
            )
        return losses, aux

    return losses_and_aux


def check_loss_fn(name: str, function: Any) -> None:
    """Refuse what does not take `(params, rng, batch)`."""
    if not takes(function, 3):
        raise TypeError(
            f"{name} must be a function (params, rng, batch) -> [batch], got "
            f"{shown(function)}: take these three arguments and return one value per "
            f"example{_SCORE_FACTORY if name == 'score_fn' else ''}."
        )


def weighted_sum(
    losses: Float[Array, "batch"], weights: Float[Array, "batch"]
) -> Float[Array, ""]:
    """Σ w_i L_i, in float32 at least."""
    # NumPy's promotion, as JAX's may be set to refuse mixed types.
    dtype = np.promote_types(losses.dtype, np.float32)
    return jnp.sum(losses.astype(dtype) * weights.astype(dtype))


def shares(
    weights: Float[Array, "batch"], total: Float[Array, ""]
) -> Float[Array, "batch"]:
    """w_i / total, and 0 where the total is 0: a batch of padding alone."""
    return weights / jnp.where(total > 0, total, jnp.ones_like(total))
