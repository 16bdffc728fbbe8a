"""One optimizer step on a weighted batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from attent_jax._checks import (
    check_per_example,
    check_rng,
    check_weights,
    leading_size,
)
from attent_jax.typing import Batch, LossFn, Params, Rng


class TrainState(NamedTuple):
    """The learner in training."""

    step: Int[Array, ""]
    """`[]` optimizer steps taken."""
    params: Params
    opt_state: optax.OptState


class TrainInfo(NamedTuple):
    """What one step saw."""

    loss: Float[Array, ""]
    """`[]` weighted mean over the global batch."""
    losses: Float[Array, "batch"]
    """`[batch]` each example's own, before the update: free scores."""
    grad_norm: Float[Array, ""]
    """`[]` global norm of the mean loss's gradient; not finite if that is not."""
    is_skipped: Bool[Array, ""]
    """`[]` whether loss or gradient was not finite, and the step changed nothing."""


def init_train_state(
    params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step.

    Example:
      >>> import jax.numpy as jnp, optax, attent_jax
      >>> state = attent_jax.training.init_train_state(jnp.ones(2), optax.sgd(0.1))
      >>> int(state.step)
      0
    """
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Callable[
    [TrainState, jax.Array | None, Batch, Float[Array, "batch"]],
    tuple[TrainState, TrainInfo],
]:
    """Compile a step on Σ w_i L_i / Σ w_i, the weighted mean over the global batch.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`, not reduced over the batch.
      optimizer: any optax transformation.
      axis_name: the mapped axis or axes, if the step runs under `pmap` or `shard_map`
        with the batch split over them. Not needed under `jit` over a mesh.

    Returns:
      `(state, rng, batch, weights[batch]) -> (state, info)`, jitted. The step folds
      its number (and its place on the axis) into `rng`, so that one key serves a
      whole training; None is for losses that need none. Rows of weight 0 add nothing
      to the step if, like all others, they have a finite loss and gradient: pad with
      a copy of a real example, as `data.epoch_order` does. A step whose loss or
      gradient is not finite counts, but leaves parameters and optimizer as they were.
      To update in place, wrap the step: `jax.jit(train_step, donate_argnums=0)`.

    Raises:
      ValueError: from the step, when first called, if `loss_fn` does not return one
        loss per example, a batch leaf has no batch axis, or leading sizes differ.
      TypeError: from the step, if rng is no typed key.

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

    @jax.jit
    def train_step(state: TrainState, rng, batch, weights):
        check_rng("rng", rng, optional=True)
        num_examples = leading_size("batch", batch)
        check_weights(weights, num_examples)
        params, rng = on_shard(state, rng, axis_name)
        total_weight = over_axis(jnp.sum(weights), axis_name)

        def share_of_loss(params):
            losses = loss_fn(params, rng, batch)
            check_per_example("loss_fn", losses, num_examples)
            divisor = jnp.where(total_weight > 0, total_weight, 1)
            return jnp.sum(losses * weights) / divisor, losses

        grad_fn = jax.value_and_grad(share_of_loss, has_aux=True)
        (loss, losses), grads = grad_fn(params)
        loss, grads = over_axis((loss, grads), axis_name)
        state, grad_norm, is_skipped = descend(state, optimizer, loss, grads)
        return state, TrainInfo(loss, losses, grad_norm, is_skipped)

    return train_step


def on_shard(
    state: TrainState, rng: Rng, axis_name: str | tuple[str, ...] | None
) -> tuple[Params, jax.Array | None]:
    """Parameters to differentiate by, and this step's randomness, on this shard."""
    params = state.params
    if rng is not None:
        rng = jax.random.fold_in(rng, state.step)
    if axis_name is not None:
        # Gradients per shard, summed once, by the step: marked as varying, or
        # shard_map would sum them itself.
        params = lax.pcast(params, axis_name, to="varying")
        if rng is not None:
            rng = jax.random.fold_in(rng, lax.axis_index(axis_name))
    return params, rng


def over_axis(tree: PyTree, axis_name: str | tuple[str, ...] | None) -> PyTree:
    """The sum over the shards."""
    return tree if axis_name is None else lax.psum(tree, axis_name)


def descend(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    loss: Float[Array, ""],
    grads: Params,
) -> tuple[TrainState, Float[Array, ""], Bool[Array, ""]]:
    """The state after the optimizer's step, the gradient's norm, and if it was skipped.

    Not finite are some losses (log 0, overflow in float16): one bad example would
    undo the training.
    """
    # In float32, as squares of float16 overflow where its values do not.
    grad_norm = optax.tree.norm(
        jax.tree.map(
            lambda grad: grad.astype(jnp.promote_types(grad.dtype, jnp.float32)), grads
        )
    )
    is_finite = jnp.isfinite(loss)
    for grad in jax.tree.leaves(grads):
        is_finite &= jnp.all(jnp.isfinite(grad))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    return TrainState(state.step + 1, params, opt_state), grad_norm, ~is_finite
