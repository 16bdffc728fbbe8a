"""One step of the optimizer, for trained parameters only and finite gradients only."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from attent_jax._checks import short, shown, structure_of
from attent_jax.typing import Params

# optax mixes types, such as Python floats with integer step counts.
_STANDARD_PROMOTION = partial(jax.numpy_dtype_promotion, "standard")


def check_optimizer(optimizer: Any) -> None:
    """Refuse anything but an optax transformation."""
    if callable(getattr(optimizer, "init", None)) and callable(
        getattr(optimizer, "update", None)
    ):
        return
    raise TypeError(
        f"optimizer must be an optax.GradientTransformation, got "
        f"{shown(optimizer)}: pass e.g. optax.adam(1e-3), as the second argument."
    )


def init_optimizer(
    optimizer: optax.GradientTransformation, trained: Params
) -> optax.OptState:
    """The optimizer's state for the trained parameters."""
    with _STANDARD_PROMOTION():
        return optimizer.init(trained)


def update_trained(
    optimizer: optax.GradientTransformation,
    trained: Params,
    opt_state: optax.OptState,
    loss: Float[Array, ""],
    grads: Params,
) -> tuple[Params, optax.OptState, Float[Array, ""], Bool[Array, ""]]:
    """Trained parameters and optimizer state after a step that may be skipped.

    Some losses are not finite (log 0, overflow in float16). One such example would
    undo the training, so the step then changes nothing.

    Returns:
      `(trained, opt_state, grad_norm[], is_skipped[])`.
    """
    # In float32, because squares of float16 overflow where its values do not.
    grad_norm = optax.tree.norm(
        jax.tree.map(
            lambda grad: grad.astype(np.promote_types(grad.dtype, np.float32)), grads
        )
    )
    is_finite = jnp.isfinite(loss)
    for grad in jax.tree.leaves(grads):
        is_finite &= jnp.all(jnp.isfinite(grad))
    with _STANDARD_PROMOTION():
        _check_opt_state(optimizer, opt_state, trained)
        updates, new_opt_state = _update(optimizer, grads, opt_state, trained, loss)
        new = optax.apply_updates(trained, updates), new_opt_state
    trained, opt_state = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), new, (trained, opt_state)
    )
    return trained, opt_state, grad_norm, ~is_finite


def _update(optimizer, grads, opt_state, trained, loss):
    update = optax.with_extra_args_support(optimizer).update
    try:
        return update(grads, opt_state, trained, value=loss)
    except (TypeError, ValueError) as error:
        if "value_fn" in str(error):
            raise TypeError(
                f"the optimizer needs value_fn for a line search, which a train step "
                f"does not give it: use one without a line search, e.g. "
                f"optax.lbfgs(learning_rate, linesearch=None). ({error})"
            ) from None
        raise


def _check_opt_state(optimizer, opt_state, trained) -> None:
    """Refuse the state of another optimizer, or of other trained parameters."""
    expected, given = (
        structure_of(optimizer.init, trained),
        jax.tree.structure(opt_state),
    )
    if expected is not None and given != expected:
        raise ValueError(
            f"state.opt_state does not fit the optimizer and the trained parameters: "
            f"give init_train_state and the train step the same optimizer and the same "
            f"trainable=. It is {short(given)}, expected {short(expected)}."
        )
