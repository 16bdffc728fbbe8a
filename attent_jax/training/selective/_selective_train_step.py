"""One optimizer step on the rows of a batch worth learning from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from attent_jax._checks import check_rng, check_weights, leading_size
from attent_jax.training._train_step import TrainState, descend, on_shard, over_axis
from attent_jax.training.selective._selective_gradient import selective_value_and_grad
from attent_jax.typing import Batch, LossFn, ScoreFn, SelectFn


class SelectiveTrainInfo(NamedTuple):
    """What one selective step saw."""

    loss: Float[Array, ""]
    """`[]` weighted mean over the selected rows."""
    scores: Float[Array, "batch"]
    """`[batch]` what was selected by; NaN for rows of weight 0."""
    indices: Int[Array, "selected"]
    """`[num_selected]` the rows taught."""
    losses: Float[Array, "selected"]
    """`[num_selected]` their losses, before the update."""
    grad_norm: Float[Array, ""]
    """`[]` global norm of the gradient; not finite if that is not."""
    is_skipped: Bool[Array, ""]
    """`[]` whether loss or gradient was not finite, and the step changed nothing."""


def make_selective_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    select_fn: SelectFn,
    *,
    num_selected: int,
    score_fn: ScoreFn | None = None,
    reuse_forward: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
) -> Callable[
    [TrainState, jax.Array | None, Batch, Float[Array, "batch"]],
    tuple[TrainState, SelectiveTrainInfo],
]:
    """Compile a step that trains on `num_selected` rows of each batch it is given.

    A drop-in for `make_train_step`, with in-batch selection.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`, not reduced over the batch.
      optimizer: any optax transformation.
      select_fn: which rows, given the scores.
      num_selected: rows taught, of the global batch under `jit`, of each shard's under
        `pmap` or `shard_map`.
      score_fn: `(params, rng, batch) -> [batch]`. None: the loss is the score.
      reuse_forward: one forward pass for scores and gradient, as in
        `selective_value_and_grad`.
      axis_name: as in `make_train_step`.

    Returns:
      `(state, rng, batch, weights[batch]) -> (state, info)`, jitted. Rows of weight 0,
      a ragged batch's padding, have the score NaN: selectors that go by the scores take
      them last, `uniform` takes them as others; they count nothing. Their loss must be
      finite. As in `make_train_step`, the step's number is folded into `rng`, and a
      step that is not finite changes nothing.

    Raises:
      TypeError, ValueError: as in `selective_value_and_grad` and `make_train_step`.

    Example:
      >>> import jax.numpy as jnp, optax, attent_jax
      >>> optimizer = optax.sgd(0.5)
      >>> train_step = attent_jax.training.make_selective_train_step(
      ...     lambda w, rng, batch: (batch - w) ** 2 / 2,
      ...     optimizer, attent_jax.selectors.top_k(), num_selected=1)
      >>> state = attent_jax.training.init_train_state(jnp.array(0.0), optimizer)
      >>> batch, weights = jnp.array([2.0, 4.0, 9.0]), jnp.array([1.0, 1.0, 0.0])
      >>> state, info = train_step(state, None, batch, weights)
      >>> float(state.params), info.indices.tolist()
      (2.0, [1])
    """

    @jax.jit
    def train_step(state: TrainState, rng, batch, weights):
        check_rng("rng", rng, optional=True)
        check_weights(weights, leading_size("batch", batch))

        def select_weighted(rng, scores, num_selected):
            scores = jnp.where(weights > 0, scores, jnp.nan)
            selection = select_fn(rng, scores, num_selected)
            return selection._replace(
                weights=selection.weights * weights[selection.indices]
            )

        params, rng = on_shard(state, rng, axis_name)
        value_and_grad = selective_value_and_grad(
            loss_fn,
            select_weighted,
            num_selected=num_selected,
            score_fn=score_fn,
            reuse_forward=reuse_forward,
        )
        (loss, info), grads = value_and_grad(params, rng, batch)
        if axis_name is not None:
            weight = jnp.sum(info.weights)
            total = over_axis(weight, axis_name)
            share = weight / jnp.where(total > 0, total, 1)
            loss, grads = over_axis(
                jax.tree.map(
                    lambda leaf: leaf * share.astype(leaf.dtype), (loss, grads)
                ),
                axis_name,
            )
        state, grad_norm, is_skipped = descend(state, optimizer, loss, grads)
        scores = jnp.where(weights > 0, info.scores, jnp.nan)
        return state, SelectiveTrainInfo(
            loss, scores, info.indices, info.losses, grad_norm, is_skipped
        )

    return train_step
