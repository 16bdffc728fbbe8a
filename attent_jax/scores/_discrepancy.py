"""Distances in function space: the scores of the paper's theory."""

from collections.abc import Callable

from jaxtyping import Array

from attent_jax._factories import described
from attent_jax.scores._dtypes import at_least_float32
from attent_jax.scores._output_space import MaskFn, output_gradient, output_norm
from attent_jax.typing import ApplyFn, Batch, OutputLossFn, ScoreFn


@described
def discrepancy(
    apply_fn: ApplyFn,
    *,
    target_fn: Callable[[Batch], Array] | None = None,
    mask_fn: MaskFn | None = None,
) -> ScoreFn:
    """‖f(S) − f*(S)‖_F, the distance of the learner's outputs from the targets.

    Args:
      apply_fn: `(params, rng, batch) -> [batch, ...]`, the outputs f.
      target_fn: `(batch) -> [batch, ...]`, the targets f*, in the outputs' shape.
        None: `batch["targets"]`.
      mask_fn: `(batch) -> [batch, positions]`, true where a position is valid. With
        it, the root mean square over valid positions of the distance at each, so
        that the score depends neither on length nor on padding.

    Returns:
      `(params, rng, batch) -> [batch]`.

    Raises:
      ValueError: from the score, if outputs and targets differ in shape.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> score = attent_jax.scores.discrepancy(lambda params, rng, batch: batch["x"])
      >>> batch = {"x": jnp.array([[3.0, 4.0]]), "targets": jnp.zeros((1, 2))}
      >>> score(None, None, batch)
      Array([5.], dtype=float32)

    Reference: Nonparametric Teaching of Attention Learners (arXiv 2602.20461), eq. 6.
    """

    def score(params, rng, batch):
        """`(params, rng, batch) -> [batch]`, distances from the targets."""
        outputs = apply_fn(params, rng, batch)
        targets = batch["targets"] if target_fn is None else target_fn(batch)
        if outputs.shape != targets.shape:
            raise ValueError(
                f"apply_fn returned shape {outputs.shape} but target_fn shape "
                f"{targets.shape}: they must agree (one-hot class labels first)."
            )
        difference = at_least_float32(outputs) - at_least_float32(targets)
        return output_norm(difference, batch, mask_fn)

    return score


@described
def functional_gradient_norm(
    apply_fn: ApplyFn,
    output_loss_fn: OutputLossFn,
    *,
    mask_fn: MaskFn | None = None,
) -> ScoreFn:
    """‖∂L/∂f‖_F, the gradient of the loss by the outputs: one forward, no backward.

    For mean squared error it is proportional to the discrepancy. For softmax
    cross-entropy it is ‖softmax(f) − y‖, known as EL2N.

    Args:
      apply_fn: `(params, rng, batch) -> [batch, ...]`, the outputs f.
      output_loss_fn: `(outputs, batch) -> [batch]`, or per position
        `[batch, positions]`; each loss may depend on its own outputs only.
      mask_fn: `(batch) -> [batch, positions]`, true where a position is valid. With
        it, the root mean square over valid positions; the losses must then be per
        position.

    Returns:
      `(params, rng, batch) -> [batch]`.

    Raises:
      ValueError: from the score, if the losses are reduced over the batch, or over
        positions where there is a mask.

    Example:
      >>> import jax.numpy as jnp, optax, attent_jax
      >>> score = attent_jax.scores.functional_gradient_norm(
      ...     lambda params, rng, batch: batch["x"],
      ...     lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(
      ...         logits, batch["y"]))
      >>> score(None, None, {"x": jnp.zeros((1, 2)), "y": jnp.array([0])}).round(4)
      Array([0.7071], dtype=float32)

    Reference: Paul et al., Deep Learning on a Data Diet (NeurIPS 2021), def. 3.
    """

    def score(params, rng, batch):
        """`(params, rng, batch) -> [batch]`, norms of the functional gradient."""
        outputs = apply_fn(params, rng, batch)
        gradient = output_gradient(output_loss_fn, outputs, batch, mask_fn)
        return output_norm(gradient, batch, mask_fn)

    return score
