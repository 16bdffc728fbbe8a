"""One optimizer step on a weighted batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from attent_jax._checks import check_count, check_rng, check_weights, leading_size
from attent_jax._trainable import merge_params, partition_params
from attent_jax.training._microbatches import accumulate
from attent_jax.training._optimizer_step import (
    check_optimizer,
    init_optimizer,
    update_trained,
)
from attent_jax.training._weighted_loss import shares, weighted_sum, with_aux
from attent_jax.typing import Batch, LossFn, Params, Rng, Trainable

AxisName = str | tuple[str, ...] | None


class TrainState(NamedTuple):
    """The learner in training."""

    step: Int[Array, ""]
    """`[]` optimizer steps taken."""
    params: Params
    """All parameters, trained and frozen."""
    opt_state: optax.OptState
    """The optimizer's state, of the trained parameters only."""


class TrainInfo(NamedTuple):
    """Diagnostics of one step; may be discarded."""

    loss: Float[Array, ""]
    """`[]` weighted mean over the global batch."""
    losses: Float[Array, "batch"]
    """`[batch]` the loss of each example, before the update: free scores."""
    grad_norm: Float[Array, ""]
    """`[]` global norm of the mean loss's gradient; not finite if the gradient is not.
    """
    is_skipped: Bool[Array, ""]
    """`[]` whether loss or gradient was not finite, so that the step changed nothing.
    """
    aux: PyTree = None
    """The loss function's auxiliary output; None without `has_aux`."""


def init_train_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    trainable: Trainable = True,
) -> TrainState:
    """Build the state before the first step.

    Args:
      params: all parameters, trained and frozen.
      optimizer: any optax transformation.
      trainable: which parameters train, as in `make_train_step`. Frozen ones get no
        optimizer state.

    Returns:
      A `TrainState` at step 0.

    Raises:
      TypeError, ValueError: if optimizer is not an optax transformation, trainable does
        not fit params or selects none, or a trained leaf is not floating point.

    Example:
      >>> import jax.numpy as jnp, optax, attent_jax
      >>> state = attent_jax.training.init_train_state(jnp.ones(2), optax.sgd(0.1))
      >>> int(state.step)
      0
    """
    check_optimizer(optimizer)
    trained, _ = partition_params(params, trainable)
    return TrainState(
        jnp.zeros((), jnp.int32), params, init_optimizer(optimizer, trained)
    )


def make_train_step(
    loss_fn: LossFn | Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    trainable: Trainable = True,
    has_aux: bool = False,
    num_microbatches: int = 1,
    axis_name: AxisName = None,
) -> Callable[
    [TrainState, jax.Array | None, Batch, Float[Array | np.ndarray, "batch"]],
    tuple[TrainState, TrainInfo],
]:
    """Compile a step on Σ w_i L_i / Σ w_i, the weighted mean over the global batch.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`, not reduced over the batch; or with
        `has_aux` `-> ([batch], aux)`, aux any pytree of arrays.
      optimizer: any optax transformation. It is given the loss as `value=`, which
        `optax.contrib.reduce_on_plateau` and `optax.polyak_sgd` need. Line searches
        need more and are refused.
      trainable: True for all parameters, a pytree prefix of bools, or a function of a
        leaf's path such as `lambda path: "lora" in path`. Frozen parameters stay in
        `state.params`, unchanged, and get no gradient and no optimizer state. Pass
        the same to `init_train_state`.
      has_aux: whether `loss_fn` returns auxiliary output, for `info.aux`.
      num_microbatches: accumulate the gradient over this many parts of the batch, one
        after the other, so that only one part's activations are in memory. It must
        divide the batch (each shard's batch with `axis_name`). The step is the whole
        batch's, up to rounding; only randomness differs, because each part folds its
        number into `rng`. Of aux, leaves whose leading axis counts a part's examples
        come back in the batch's order; others are stacked,
        `[num_microbatches, ...]`. On a mesh, let the batch be a multiple of
        num_microbatches times the number of shards.
      axis_name: the mapped axis or axes, if the step runs under `pmap` or `shard_map`
        with the batch split over them. Not needed under `jit` over a mesh. `info.aux`
        is then each shard's own.

    Returns:
      `(state, rng, batch, weights[batch]) -> (state, info)`, jitted. The step folds
      its number (and its place on the axis) into `rng`, so one key serves a whole
      training; pass None if the loss needs no randomness. Rows of weight 0 add nothing
      to the step if their loss and gradient are finite: pad with a copy of a real
      example, as `data.epoch_batches` does. A step whose loss or gradient is not
      finite counts, but leaves parameters and optimizer state unchanged.

      To update in place, donate the state: `jax.jit(train_step, donate_argnums=0)`.
      The state you passed is then gone, so keep only the one returned.

    Raises:
      TypeError, ValueError: if loss_fn or optimizer is of another kind, or
        num_microbatches is not an integer >= 1. From the step, when first called: if
        `loss_fn` does not return one loss per example, a batch leaf has no batch axis,
        leading sizes differ, the losses are not floating point, the state is of another
        optimizer or other trained parameters, num_microbatches does not divide the
        batch, rng is not a typed key, a trained parameter is not floating point, or the
        optimizer needs `value_fn`.

    Example:
      >>> import jax.numpy as jnp, optax, attent_jax
      >>> optimizer = optax.sgd(0.5)
      >>> train_step = attent_jax.training.make_train_step(
      ...     lambda w, rng, batch: (batch - w) ** 2 / 2, optimizer)
      >>> state = attent_jax.training.init_train_state(jnp.array(0.0), optimizer)
      >>> batch, weights = jnp.array([2.0, 4.0, 9.0]), jnp.array([1.0, 1.0, 0.0])
      >>> state, info = train_step(state, None, batch, weights)
      >>> float(state.params), info.losses.tolist()
      (1.5, [2.0, 8.0, 40.5])
    """
    losses_and_aux = with_aux(loss_fn, has_aux)
    check_optimizer(optimizer)
    num_microbatches = check_count("num_microbatches", num_microbatches)

    @jax.jit
    def train_step(state: TrainState, rng, batch, weights):
        check_state(state)
        check_rng("rng", rng, optional=True)
        check_weights(weights, leading_size("batch", batch))
        trained, frozen = partition_params(state.params, trainable)
        rng = step_rng(state, rng, axis_name)
        total_weight = over_axis(jnp.sum(weights), axis_name)

        def gradient_fn(trained, rng, batch, weights):
            def share_of_loss(trained):
                params = merge_params(trained, frozen)
                losses, aux = losses_and_aux(params, rng, batch)
                return weighted_sum(losses, shares(weights, total_weight)), (
                    losses,
                    aux,
                )

            grads, outputs = jax.grad(share_of_loss, has_aux=True)(trained)
            return outputs, grads

        (losses, aux), grads = accumulate(
            gradient_fn,
            varying(trained, axis_name),
            rng,
            batch,
            weights,
            num_microbatches,
        )
        loss = weighted_sum(losses, shares(weights, total_weight))
        loss, grads = over_axis((loss, grads), axis_name)
        new, opt_state, grad_norm, is_skipped = update_trained(
            optimizer, trained, state.opt_state, loss, grads
        )
        state = TrainState(state.step + 1, merge_params(new, frozen), opt_state)
        return state, TrainInfo(loss, losses, grad_norm, is_skipped, aux)

    return train_step


def check_state(state: Any) -> None:
    """Refuse parameters, or arguments in another order."""
    if not all(hasattr(state, field) for field in TrainState._fields):
        raise TypeError(
            f"state must be a TrainState, got {type(state).__name__}: make one with "
            f"attent_jax.training.init_train_state(params, optimizer), and pass "
            f"(state, rng, batch, weights)."
        )


def step_rng(state: TrainState, rng: Rng, axis_name: AxisName) -> Rng:
    """This step's randomness, on this shard."""
    if rng is None:
        return None
    rng = jax.random.fold_in(rng, state.step)
    return (
        rng if axis_name is None else jax.random.fold_in(rng, lax.axis_index(axis_name))
    )


def varying(trained: Params, axis_name: AxisName) -> Params:
    """What a shard differentiates with respect to.

    Gradients are per shard, and the step sums them once. Parameters not marked as
    varying would make shard_map sum them, too.
    """
    return trained if axis_name is None else lax.pcast(trained, axis_name, to="varying")


def over_axis(tree: PyTree, axis_name: AxisName) -> PyTree:
    """The sum over the shards."""
    return tree if axis_name is None else lax.psum(tree, axis_name)
