"""Selection inside sequences: the target tokens worth learning from."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from attent_jax._checks import check_number, check_select_fn
from attent_jax.scores import masked_mean
from attent_jax.training._weighted_loss import check_loss_fn
from attent_jax.typing import Batch, LossFn, Params, Rng, SelectFn


def token_selective_loss(
    token_loss_fn: Callable[[Params, Rng, Batch], Float[Array, "batch seq"]],
    select_fn: SelectFn,
    *,
    ratio: float,
    mask: Callable[[Batch], Bool[Array, "batch seq"]] | None = None,
    reference: Callable[[Batch], Float[Array, "batch seq"]] | None = None,
) -> LossFn:
    """The loss of a sequence over its target tokens worth learning from.

    In each sequence max(1, floor(ratio · targets)) targets are selected, by their loss
    or, with a reference model, by their loss beyond the reference's. This leaves out
    tokens that are learnt already, and tokens that cannot be predicted. All tokens are
    still read and predicted, so a step takes as long as before: what changes is what
    is learnt from it. Compare it with `selectors.uniform()` as the control.

    Args:
      token_loss_fn: `(params, rng, batch) -> [batch, seq]` loss of each target.
      select_fn: which targets, given the scores, e.g. `selectors.top_k()`.
      ratio: share of a sequence's targets taught, in (0, 1].
      mask: `(batch) -> [batch, seq]` true where a target counts (not padding, not
        prompt). None: everywhere.
      reference: `(batch) -> [batch, seq]`, the same losses under a reference model:
        computed, or looked up in the batch. None: the loss is the score.

    Returns:
      A loss function `(params, rng, batch) -> [batch]`: weighted mean over the selected
      targets, 0 for a sequence without targets. Positions that are not targets are
      shown to the selector with the score NaN, so they are selected last, and count
      nothing. `reuse_forward` refuses this loss, because a selector's loop runs until
      the last sequence's selection is found.

    Raises:
      TypeError, ValueError: if select_fn is not a selector, token_loss_fn is not a
        function of three arguments, or ratio is not a number in (0, 1]; from the loss,
        if losses, mask and references differ in shape, or are not `[batch, seq]`.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> loss_fn = attent_jax.training.token_selective_loss(
      ...     lambda w, rng, batch: (batch["x"] - w) ** 2,
      ...     attent_jax.selectors.top_k(), ratio=0.5,
      ...     mask=lambda batch: batch["x"] > 0,
      ...     reference=lambda batch: batch["reference_loss"])
      >>> batch = {"x": jnp.array([[1.0, 2.0, 3.0, 4.0, 0.0, 0.0]]),
      ...          "reference_loss": jnp.array([[0.0, 0.0, 0.0, 16.0, 0.0, 0.0]])}
      >>> loss_fn(0.0, None, batch)  # of 1, 4, 9; not the 16
      Array([6.5], dtype=float32)

    Reference: Lin et al., Rho-1: Not All Tokens Are What You Need (NeurIPS 2024).
    """
    check_loss_fn("token_loss_fn", token_loss_fn)
    check_select_fn("select_fn", select_fn)
    ratio = check_number("ratio", ratio, low=0, high=1, low_excluded=True)

    def loss_fn(params, rng, batch):
        rng, select_rng = (None, None) if rng is None else jax.random.split(rng)
        losses = token_loss_fn(params, rng, batch)
        if losses.ndim != 2:
            raise ValueError(
                f"token_loss_fn must return shape [batch, seq], one loss per target, "
                f"got shape {losses.shape}: do not reduce over the sequence."
            )
        is_target = jnp.ones(losses.shape, bool) if mask is None else mask(batch)
        references = jnp.zeros(losses.shape) if reference is None else reference(batch)
        for name, values in (("mask", is_target), ("reference", references)):
            if values.shape != losses.shape:
                raise ValueError(
                    f"{name} returned shape {values.shape} but the losses have shape "
                    f"{losses.shape}: return one value per target."
                )
        references = jnp.asarray(references).astype(losses.dtype)
        excess = lax.stop_gradient(losses) - references
        return masked_mean(losses, target_weights(select_rng, excess, is_target))

    # Compiled, because in eager mode jax_debug_nans stops at the scores.
    @jax.jit
    def target_weights(rng, excess, is_target):
        scores = jnp.where(is_target, excess, jnp.full_like(excess, jnp.nan))
        num_targets = jnp.sum(is_target, axis=1)
        num_selected = jnp.floor(ratio * num_targets.astype(float)).astype(jnp.int32)
        rngs = None if rng is None else jax.random.split(rng, len(excess))
        weights = jax.vmap(token_weights)(rngs, scores, jnp.maximum(num_selected, 1))
        return jnp.where(is_target, weights, jnp.zeros_like(weights))

    def token_weights(rng, scores, num_selected):
        selection = select_fn(rng, scores, num_selected)
        weights = selection.weights.astype(scores.dtype)
        return jnp.zeros_like(scores).at[selection.indices].set(weights)

    return loss_fn
