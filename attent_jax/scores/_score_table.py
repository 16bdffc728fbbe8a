"""Scores that cost nothing: the losses which training computes anyway."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from attent_jax._checks import MAX_COUNT, check_count
from attent_jax.scores._transforms import blend, check_decay
from attent_jax.typing import Scores


class ScoreTable(NamedTuple):
    """The latest losses of every example, as training saw them.

    Start with `ScoreTable.init(len(pool))`, update it with the ids and per-example
    losses of each step, and give its `scores` to the teacher. Losses are averaged
    over an example's visits, `decay` · old + (1 − `decay`) · new. An example not yet
    seen scores as high as the highest seen: worth a look, but not before everything
    else.

    A table is a pytree with the same structure in and out of `update`: use it in
    `jit` and `scan`, and save it in checkpoints.

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
    """`[pool]` averaged losses; +inf where not yet seen, or where the loss was +inf."""
    decay: Float[Array, ""]
    """`[]` the share of the old average."""

    @classmethod
    def init(cls, num_examples: int, *, decay: float = 0.3) -> "ScoreTable":
        """Make a table in which no example has been seen.

        Args:
          num_examples: the pool's size, `len(pool)`; less than 2**31.
          decay: the old average's share in an update, in [0, 1). 0 keeps the latest
            loss only.

        Returns:
          The table.

        Raises:
          TypeError, ValueError: if `num_examples` is not an integer between 1 and
            2**31 − 1, or `decay` is not a number in [0, 1).
        """
        num_examples = check_count("num_examples", num_examples, maximum=MAX_COUNT)
        losses = jnp.full(num_examples, jnp.inf, float)
        return cls(losses, jnp.array(check_decay(decay), losses.dtype))

    def update(self, ids: Any, losses: Any, weights: Any = None) -> "ScoreTable":
        """Record the losses of a batch.

        The old table stays valid, so each call copies it. To update it in place,
        donate it: `jax.jit(ScoreTable.update, donate_argnums=0)`, or donate it to the
        jitted training step that calls `update`. For 10 million examples that takes
        0.3 ms instead of 18 ms.

        Args:
          ids: `[batch]` integer example ids, each less than the pool's size. NumPy
            ids, lists, and jax arrays in the host's memory are checked. Ids that are
            traced or on an accelerator are not; those outside the pool are dropped.
            For an id given more than once, one of its losses is recorded, and it is
            not specified which.
          losses: `[batch]` the loss of each example, e.g. a train step's
            `info.losses` (not `info.loss`, their mean). NaN leaves the example's
            average as it was.
          weights: `[batch]` the batch's weights. Rows of weight 0, which pad a
            ragged batch, are not recorded. None: all rows are.

        Returns:
          The new table.

        Raises:
          TypeError: if ids are not integers.
          ValueError: if ids are outside the pool, or if ids, losses and weights do
            not all have shape `[batch]`.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from attent_jax.scores import ScoreTable
          >>> update = jax.jit(ScoreTable.update, donate_argnums=0)
          >>> table = ScoreTable.init(3, decay=0.5)
          >>> table = update(table, jnp.array([0, 1]), jnp.array([1.0, 3.0]))
          >>> table = update(table, jnp.array([1, 2]), jnp.array([2.0, 4.0]))
          >>> table.scores
          Array([1. , 2.5, 4. ], dtype=float32)
        """
        ids, losses = _array(ids), _array(losses)
        weights = None if weights is None else _array(weights)
        _check_batch(ids, losses, weights)
        _check_ids(ids, self.losses.size)
        return self._replace(
            losses=_record(self.losses, ids, losses, weights, self.decay)
        )

    @property
    def scores(self) -> Scores:
        """`[pool]` the scores: the averages, the highest of them where not yet seen."""
        seen = jnp.isfinite(self.losses)
        highest = jnp.max(self.losses, where=seen, initial=-jnp.inf)
        highest = jnp.where(jnp.any(seen), highest, jnp.zeros_like(highest))
        return jnp.where(jnp.isposinf(self.losses), highest, self.losses)


@jax.jit
def _record(table, ids, losses, weights, decay):
    if ids.dtype.itemsize < 4:
        ids = ids.astype(jnp.int32)  # the pool's size may not fit in ids' own type
    is_recorded = (ids >= 0) & (ids < table.size)  # a negative id would wrap
    if weights is not None:
        is_recorded &= weights > 0
    ids = jnp.where(is_recorded, ids, table.size).astype(jnp.int32)
    blended = blend(table.at[ids].get(mode="clip"), losses.astype(table.dtype), decay)
    return table.at[ids].set(blended, mode="drop")  # table.size is past the end


def _array(values: Any) -> Any:
    """Lists and scalars as NumPy arrays; arrays as they are, wherever they lie."""
    return values if hasattr(values, "dtype") else np.asarray(values)


def _check_batch(ids: Any, losses: Any, weights: Any) -> None:
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise (ValueError if ids.ndim != 1 else TypeError)(
            f"ids must be integers of shape [batch], got {ids.dtype} of shape "
            f"{ids.shape}: pass the ids of the batch's examples."
        )
    if losses.shape != ids.shape:
        remedy = (
            "this is their mean or sum; pass one loss per example, e.g. a train "
            "step's info.losses, not info.loss"
            if losses.shape == ()
            else "pass the loss of each example in ids, in the same order"
        )
        raise ValueError(
            f"losses must have shape {ids.shape}, as ids, got {losses.shape}: {remedy}."
        )
    if weights is not None and weights.shape != ids.shape:
        raise ValueError(
            f"weights must have shape {ids.shape}, as ids, got {weights.shape}: pass "
            f"the batch's weights, or leave them out to record every row."
        )


def _check_ids(ids: Any, num_examples: int) -> None:
    """Refuse ids outside the pool, where they can be read without waiting."""
    if isinstance(ids, jax.Array) and not _is_on_host(ids):
        return
    ids = np.asarray(jax.device_get(ids))
    outside = ids[(ids < 0) | (ids >= num_examples)]
    if outside.size:
        raise ValueError(
            f"ids must be between 0 and {num_examples - 1} for a table of "
            f"{num_examples} examples, got {outside[0]}: make the table with "
            f"ScoreTable.init(len(pool)), and pass ids of that pool."
        )


def _is_on_host(array: jax.Array) -> bool:
    """Whether an array is concrete and in the memory of this host."""
    return (
        not isinstance(array, Tracer)
        and array.is_fully_addressable
        and all(device.platform == "cpu" for device in array.devices())
    )
