"""One optimizer step on the rows of a batch worth learning from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, PyTree

from attent_jax._checks import check_rng, check_weights, leading_size
from attent_jax._trainable import merge_params, partition_params
from attent_jax.training._optimizer_step import check_optimizer, update_trained
from attent_jax.training._train_step import (
    AxisName,
    TrainState,
    check_state,
    over_axis,
    step_rng,
    varying,
)
from attent_jax.training._weighted_loss import with_aux
from attent_jax.training.selective._selective_gradient import (
    check_layout,
    check_selection_fns,
    value_and_grad_of_selected,
)
from attent_jax.typing import Batch, LossFn, ScoreFn, SelectFn, Trainable


class SelectiveTrainInfo(NamedTuple):
    """Diagnostics of one selective step; may be discarded."""

    loss: Float[Array, ""]
    """`[]` weighted mean over the selected rows."""
    scores: Float[Array, "batch"]
    """`[batch]` the scores as computed, also of rows of weight 0."""
    indices: Int[Array, "selected"]
    """`[num_selected]` the rows taught, numbered over the whole batch."""
    losses: Float[Array, "selected"]
    """`[num_selected]` their losses, before the update."""
    grad_norm: Float[Array, ""]
    """`[]` global norm of the gradient; not finite if the gradient is not."""
    is_skipped: Bool[Array, ""]
    """`[]` whether loss or gradient was not finite, so that the step changed nothing.
    """
    aux: PyTree = None
    """The loss function's auxiliary output for these rows; None without `has_aux`."""


def make_selective_train_step(
    loss_fn: LossFn | Callable[..., Any],
    optimizer: optax.GradientTransformation,
    select_fn: SelectFn,
    *,
    num_selected: int,
    num_groups: int = 1,
    score_fn: ScoreFn | None = None,
    reuse_forward: bool = False,
    trainable: Trainable = True,
    has_aux: bool = False,
    sharding: NamedSharding | None = None,
    axis_name: AxisName = None,
) -> Callable[
    [TrainState, jax.Array | None, Batch, Float[Array | np.ndarray, "batch"]],
    tuple[TrainState, SelectiveTrainInfo],
]:
    """Compile a step that trains on `num_selected` rows of each batch it is given.

    Call it like the step of `make_train_step`. There is no `num_microbatches`.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`, not reduced over the batch; or with
        `has_aux` `-> ([batch], aux)`, aux a pytree of per-example arrays.
      optimizer: any optax transformation, as in `make_train_step`.
      select_fn: which rows, given the scores.
      num_selected: rows taught: of the global batch under `jit`, of each shard's batch
        under `pmap` or `shard_map`.
      num_groups: select within this many equal, contiguous groups of the batch, as in
        `selective_value_and_grad`. On a mesh, pass the number of shards.
      score_fn: `(params, rng, batch) -> [batch]`. None: the loss is the score.
      reuse_forward: one forward pass for scores and gradient, as in
        `selective_value_and_grad`.
      trainable: which parameters train, as in `make_train_step`.
      has_aux: whether `loss_fn` returns auxiliary output, for `info.aux`.
      sharding: how a batch is split over the devices under `jit`, as in
        `selective_value_and_grad`.
      axis_name: as in `make_train_step`.

    Returns:
      `(state, rng, batch, weights[batch]) -> (state, info)`, jitted. Rows of weight 0,
      such as a ragged batch's padding, are shown to the selector with the score NaN.
      Selectors take them last, and they add nothing to the step if their loss is
      finite. As in `make_train_step`, the step's number is folded into `rng`, a step
      that is not finite changes nothing, and the state can be donated.

    Raises:
      TypeError, ValueError: as in `selective_value_and_grad` and `make_train_step`; if
        both sharding and axis_name are given.

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
    losses_and_aux = with_aux(loss_fn, has_aux)
    check_optimizer(optimizer)
    check_selection_fns(select_fn, score_fn)
    layout = check_layout(num_selected, num_groups, reuse_forward, sharding)
    if sharding is not None and axis_name is not None:
        raise ValueError(
            f"sharding= is for jit over a mesh, axis_name={axis_name!r} for shard_map "
            f"and pmap, where each shard selects among its own rows: pass one of them."
        )

    @jax.jit
    def train_step(state: TrainState, rng, batch, weights):
        check_state(state)
        check_rng("rng", rng, optional=True)
        check_weights(weights, leading_size("batch", batch))
        trained, frozen = partition_params(state.params, trainable)

        def of_trained(function):
            return lambda trained, *arguments: function(
                merge_params(trained, frozen), *arguments
            )

        (loss, info), grads = value_and_grad_of_selected(
            of_trained(losses_and_aux),
            select_fn,
            None if score_fn is None else of_trained(score_fn),
            layout,
            varying(trained, axis_name),
            step_rng(state, rng, axis_name),
            batch,
            weights,
        )
        if axis_name is not None:
            weight = jnp.sum(info.weights)
            total = over_axis(weight, axis_name)
            share = weight / jnp.where(total > 0, total, jnp.ones_like(total))
            loss, grads = over_axis(
                jax.tree.map(
                    lambda leaf: leaf * share.astype(leaf.dtype), (loss, grads)
                ),
                axis_name,
            )
        new, opt_state, grad_norm, is_skipped = update_trained(
            optimizer, trained, state.opt_state, loss, grads
        )
        state = TrainState(state.step + 1, merge_params(new, frozen), opt_state)
        return state, SelectiveTrainInfo(
            loss,
            info.scores,
            info.indices,
            info.losses,
            grad_norm,
            is_skipped,
            info.aux,
        )

    return train_step
