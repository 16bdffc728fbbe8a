"""The mean over positions that are not padding."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def masked_mean(
    values: Float[Array | np.ndarray, "batch ..."],
    mask: Bool[Array | np.ndarray, "batch ..."]
    | Float[Array | np.ndarray, "batch ..."]
    | None = None,
) -> Float[Array, "batch"]:
    """Mean over each example's valid positions.

    Args:
      values: `[batch, ...]` one value per position.
      mask: `[batch, ...]` true (or a positive weight) where a position counts. It may
        lack trailing axes of the values; these count in full. None: every position.

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
    values = jnp.asarray(values)
    mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask)
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
