"""A room's random numbers."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

STREAMS = (
    "type",
    "furniture",
    "camera",
    "small things",
    "regions",
    "colors",
    "planes",
    "light",
)
_WIDTH = 480


class Draws:
    """Uniform numbers, handed out in the order of the calls.

    A room has a stream for each of its aspects, and all of them come from one call of
    the generator, which takes most of a generator's time and compilation.

    Args:
      numbers: `[count]` uniform in [0, 1).
    """

    def __init__(self, numbers: Float[Array, "count"]):
        self._numbers, self._next = numbers, 0

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> jax.Array:
        """Numbers in [low, high)."""
        start, self._next = self._next, self._next + math.prod(shape)
        if self._next > self._numbers.shape[0]:
            raise ValueError(
                f"a stream has {self._numbers.shape[0]} numbers, but {self._next} are "
                f"drawn: raise _WIDTH."
            )
        numbers = self._numbers[start : self._next].reshape(shape)
        return low + (high - low) * numbers

    def signed(self, *shape: int) -> jax.Array:
        """Numbers in [-1, 1)."""
        return self.uniform(*shape, low=-1.0)

    def bernoulli(self, chance: float | jax.Array, *shape: int) -> jax.Array:
        """True with this chance."""
        return self.uniform(*shape) < chance

    def index(self, shares: Sequence[float] | np.ndarray, *shape: int) -> jax.Array:
        """Indices into the shares, each as often as its share says."""
        limits = np.cumsum(np.asarray(shares, float) / np.sum(shares))[:-1]
        limits = limits.astype(np.float32).reshape((1,) * len(shape) + (-1,))
        return jnp.sum(self.uniform(*shape)[..., None] >= limits, axis=-1)

    def choice(self, values: Sequence[int] | np.ndarray, *shape: int) -> jax.Array:
        """Any of the values, all equally often."""
        return jnp.asarray(values)[self.index(np.ones(len(values)), *shape)]


def make_draws(rng: jax.Array) -> dict[str, Draws]:
    """The streams of one room.

    Args:
      rng: the room's key.
    """
    numbers = jax.random.uniform(rng, (len(STREAMS), _WIDTH))
    return {name: Draws(row) for name, row in zip(STREAMS, numbers, strict=True)}
