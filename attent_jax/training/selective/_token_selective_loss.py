"""Selection inside sequences: the target tokens worth learning from."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from attent_jax._checks import check_number
from attent_jax.scores import masked_mean
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
    or, with a reference model, by their loss beyond the reference's: tokens that are
    learnt already, and tokens that nobody can predict, are left out. All tokens are
    still read and predicted, so this saves no time in a step: it changes what is
    learnt from it. Beside it belongs `selectors.uniform()`.

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
      targets, 0 for a sequence without targets. `uniform` draws from all positions,
      targets or not. `reuse_forward` has no proof for the scatter in it, and refuses.

    Raises:
      TypeError, ValueError: for a ratio that is no number in (0, 1]; from the loss, if
        losses, mask and references differ in shape, or are not `[batch, seq]`.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> loss_fn = attent_jax.training.token_selective_loss(
      ...     lambda w, rng, batch: (batch["x"] - w) ** 2,
      ...     attent_jax.selectors.top_k(), ratio=0.5,
      ...     mask=lambda batch: batch["x"] > 0,
      ...     reference=lambda batch: batch["reference_loss"])
      >>> batch = {"x": jnp.array([[1.0, 2.0, 3.0, 4.0, 0.0, 0.0]]),
      ...          "reference_loss": jnp.array([[0.0, 0.0, 0.0, 16.0, 0.0, 0.0]])}
      >>> loss_fn(0.0, None, batch)  # of 1, 4, 9 and 16: not the 16, no model learns it
      Array([6.5], dtype=float32)

    Reference: Lin et al., Rho-1: Not All Tokens Are What You Need (NeurIPS 2024).
    """
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
        scores = jnp.where(is_target, lax.stop_gradient(losses) - references, jnp.nan)
        num_targets = jnp.sum(is_target, axis=1)
        num_selected = jnp.floor(ratio * num_targets).astype(jnp.int32)
        rngs = None if select_rng is None else jax.random.split(select_rng, len(losses))
        weights = jax.vmap(token_weights, in_axes=(None if rngs is None else 0, 0, 0))(
            rngs, scores, jnp.maximum(num_selected, 1)
        )
        return masked_mean(losses, jnp.where(is_target, weights, 0))

    def token_weights(rng, scores, num_selected):
        selection = select_fn(rng, scores, num_selected)
        return jnp.zeros(scores.shape).at[selection.indices].set(selection.weights)

    return loss_fn
