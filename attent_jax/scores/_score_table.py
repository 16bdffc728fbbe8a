"""Scores that cost nothing: the losses which training computes anyway."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attent_jax._checks import check_count
from attent_jax.scores._transforms import blend, check_decay
from attent_jax.typing import Scores


class ScoreTable(NamedTuple):
    """The latest losses of every example, as training saw them.

    Start with `ScoreTable.init(len(pool))`, feed it each step's ids and per-example
    losses, give its `scores` to the teacher. Losses are averaged over an example's
    visits (0.3 old + 0.7 new). An example not yet seen scores as high as the highest
    seen: worth a look, but not before everything else.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> table = attent_jax.scores.ScoreTable.init(4)
      >>> table = table.update(jnp.array([0, 2]), jnp.array([1.0, 3.0]))
      >>> table.scores
      Array([1., 3., 3., 3.], dtype=float32)
      >>> table.update(jnp.array([2]), jnp.array([0.0])).scores.round(2)
      Array([1. , 1. , 0.9, 1. ], dtype=float32)
    """

    losses: Float[Array, "pool"]
    """`[pool]` averaged losses; +inf where not yet seen, or lost to +inf."""

    @classmethod
    def init(cls, num_examples: int) -> "ScoreTable":
        """A table for a pool of `num_examples`, none of them seen."""
        num_examples = check_count("num_examples", num_examples)
        return cls(jnp.full(num_examples, jnp.inf))

    def update(
        self,
        ids: Int[Array, "batch"] | Int[np.ndarray, "batch"],
        losses: Float[Array, "batch"],
        weights: Float[Array, "batch"] | Float[np.ndarray, "batch"] | None = None,
        *,
        decay: float = 0.3,
    ) -> "ScoreTable":
        """Record the losses of a batch.

        Args:
          ids: `[batch]` distinct example ids.
          losses: `[batch]` per-example losses, e.g. a train step's `info.losses`. NaN
            leaves the example's average as it was.
          weights: `[batch]` the batch's weights; rows of weight 0 (the padding of a
            ragged batch) are not recorded. None: all rows are.
          decay: the old average's share, in [0, 1).

        Returns:
          The new table.
        """
        decay = check_decay(decay)
        if weights is None:
            weights = jnp.ones(losses.shape)
        return ScoreTable(_record(self.losses, ids, losses, weights, decay))

    @property
    def scores(self) -> Scores:
        """`[pool]` the scores: the averages, the highest of them where not yet seen."""
        seen = jnp.isfinite(self.losses)
        highest = jnp.max(self.losses, where=seen, initial=-jnp.inf)
        highest = jnp.where(jnp.any(seen), highest, 0.0)
        return jnp.where(jnp.isposinf(self.losses), highest, self.losses)


@jax.jit
def _record(table, ids, losses, weights, decay):
    blended = blend(table[ids], losses.astype(table.dtype), decay)
    recorded = jnp.where(weights > 0, ids, table.size)  # past the end: dropped
    return table.at[recorded].set(blended, mode="drop")
