"""A signal to fit: coordinates and the values there."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Signal(NamedTuple):
    """A picture, a sound or a shape, sampled on a regular grid."""

    coordinates: Float[np.ndarray, "points dims"]
    """`[points, dims]` float32 in [-1, 1], in the order of the grid's axes."""
    values: Float[np.ndarray, "points channels"]
    """`[points, channels]` float32 in [-1, 1]."""
    shape: tuple[int, ...]
    """Of the grid: `(height, width)`, `(samples,)` or `(n, n, n)`. The points are in
    row-major order."""
    name: str
    fingerprint: dict[str, Any]
    """JSON data that differs if the signal does."""

    def on_grid(self, values: Float[np.ndarray, "points channels"]) -> np.ndarray:
        """Arrange such values, or their reconstruction, as the grid.

        Args:
          values: `[points, channels]`.

        Returns:
          `[*shape, channels]`.
        """
        return np.reshape(values, (*self.shape, -1))


def grid(shape: tuple[int, ...]) -> Float[np.ndarray, "points dims"]:
    """Coordinates of a regular grid over the cube [-1, 1]^dims, ends included.

    Args:
      shape: points along each axis, two or more.

    Returns:
      `[points, dims]` float32, in row-major order.

    Example:
      >>> grid((2, 3)).tolist()[:4]
      [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0], [1.0, -1.0]]
    """
    axes = [np.linspace(-1, 1, length, dtype=np.float32) for length in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))


def sampled(values: np.ndarray, name: str, fingerprint: dict[str, Any]) -> Signal:
    """A signal of values on a grid.

    Args:
      values: `[*shape, channels]` in [-1, 1].
      name: what reports call it.
      fingerprint: where the values come from, as JSON data.

    Returns:
      The signal, with the grid's coordinates.
    """
    *shape, channels = values.shape
    flat = np.ascontiguousarray(values.reshape(-1, channels), np.float32)
    return Signal(grid(tuple(shape)), flat, tuple(shape), name, fingerprint)


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of the data's SHA-256.

    Example:
      >>> digest(b"")
      'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()[:16]
