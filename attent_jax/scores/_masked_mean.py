"""The mean that padding does not move."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_mean(
    values: Float[Array, "batch ..."],
    mask: Bool[Array, "batch ..."] | Float[Array, "batch ..."] | None = None,
) -> Float[Array, "batch"]:
    """Mean over each example's valid positions.

    Args:
      values: `[batch, ...]` one value per position.
      mask: `[batch, ...]` true (or a positive weight) where a position counts; any
        trailing axes that it lacks are counted whole. None: every position.

    Returns:
      `[batch]`; 0 for an example without a valid position. Values at invalid
      positions are not read, NaN included.

    Raises:
      ValueError: if the mask's shape is not a prefix of the values'.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> losses = jnp.array([[1.0, 3.0], [5.0, jnp.nan]])
      >>> mask = jnp.array([[True, True], [True, False]])
      >>> attent_jax.scores.masked_mean(losses, mask).tolist()
      [2.0, 5.0]
    """
    if mask is None:
        mask = jnp.ones(values.shape, bool)
    if values.shape[: mask.ndim] != mask.shape:
        raise ValueError(
            f"mask has shape {mask.shape} but values {values.shape}: the mask must "
            f"have the values' leading axes."
        )
    trailing = tuple(range(mask.ndim, values.ndim))
    weights = jnp.broadcast_to(
        jnp.expand_dims(mask, trailing).astype(values.dtype), values.shape
    )
    positions = tuple(range(1, values.ndim))
    total = jnp.sum(jnp.where(weights > 0, values, 0) * weights, axis=positions)
    count = jnp.sum(weights, axis=positions)
    return total / jnp.where(count > 0, count, 1)
