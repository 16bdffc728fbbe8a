"""Where tokens stand in their sequences: positions, rotations, and who sees whom."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NOWHERE = -1
"""The position of padding, and of cache slots that are not filled yet."""


class Rotation(NamedTuple):
    """Angles of the rotary position embedding."""

    cos: Float[Array, "#batch seq half"]
    sin: Float[Array, "#batch seq half"]


def positions_in_segments(
    segment_ids: Int[Array, "batch seq"],
) -> Int[Array, "batch seq"]:
    """Positions that restart at 0 in every segment; `NOWHERE` for padding, id 0."""
    slots = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None]
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)))
    starts = jnp.where(segment_ids != before, slots, 0)
    positions = slots - jax.lax.cummax(starts, axis=1)
    return jnp.where(segment_ids != 0, positions, NOWHERE)


def visible(
    queries: Int[Array, "#batch seq"],
    keys: Int[Array, "#batch slots"],
    sliding_window: int | None,
) -> Bool[Array, "#batch seq slots"]:
    """Which keys a query attends to, both given by their positions."""
    distance = queries[:, :, None] - keys[:, None, :]
    allowed = (distance >= 0) & (keys[:, None, :] != NOWHERE)
    if sliding_window is not None:
        allowed &= distance < sliding_window
    return allowed


def rotation(
    positions: Int[Array, "#batch seq"],
    head_width: int,
    theta: float,
    scale: float,
    dtype: Any,
) -> Rotation:
    """Angles, computed in `dtype`: in half precision, tokens 1000 and 1001 agree."""
    exponents = jnp.arange(0, head_width, 2, dtype=dtype) / head_width
    wavelengths = jnp.power(jnp.asarray(theta, dtype), exponents)[None, None]
    angles = (positions.astype(dtype) / scale)[..., None] / wavelengths
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(
    x_BSNH: Float[Array, "batch seq heads width"], by: Rotation
) -> Float[Array, "batch seq heads width"]:
    """Turn the pairs (i, i + width / 2) of each head.

    Reference: Su et al., RoFormer (arXiv 2104.09864), eq. 34; the pairing is that of
    the published Llama, Mistral and Gemma weights for transformers.
    """
    cos, sin = (angle[:, :, None].astype(x_BSNH.dtype) for angle in by)
    left, right = jnp.split(x_BSNH, 2, axis=-1)
    return jnp.concatenate(
        [left * cos - right * sin, right * cos + left * sin], axis=-1
    )
