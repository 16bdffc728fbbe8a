"""Distances in function space: what the paper's theory scores by."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax._checks import leading_size
from attent_jax.scores._masked_mean import masked_mean
from attent_jax.typing import ApplyFn, Batch, OutputLossFn, ScoreFn


def discrepancy(
    apply_fn: ApplyFn,
    *,
    target_fn: Callable[[Batch], Array] = lambda batch: batch["targets"],
    mask_fn: Callable[[Batch], Array] | None = None,
) -> ScoreFn:
    """‖f(S) − f*(S)‖_F, the distance of the learner's outputs from the targets.

    Args:
      apply_fn: `(params, rng, batch) -> [batch, ...]`, the outputs f.
      target_fn: `(batch) -> [batch, ...]`, the targets f*, in the outputs' shape.
      mask_fn: `(batch) -> [batch, positions]`, true where a position is valid. With
        it, the root mean square over valid positions of the distance at each, so
        that neither length nor padding moves the score.

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
        outputs, targets = apply_fn(params, rng, batch), target_fn(batch)
        if outputs.shape != targets.shape:
            raise ValueError(
                f"apply_fn returned shape {outputs.shape} but target_fn shape "
                f"{targets.shape}: they must agree (one-hot class labels first)."
            )
        return _norm(outputs - targets, batch, mask_fn)

    return score


def functional_gradient_norm(
    apply_fn: ApplyFn,
    output_loss_fn: OutputLossFn,
    *,
    mask_fn: Callable[[Batch], Array] | None = None,
) -> ScoreFn:
    """‖∂L/∂f‖_F, how hard the loss pulls at the outputs: one forward, no backward.

    For mean squared error it is proportional to the discrepancy, for softmax
    cross-entropy it is ‖softmax(f) − y‖, known as EL2N.

    Args:
      apply_fn: `(params, rng, batch) -> [batch, ...]`, the outputs f.
      output_loss_fn: `(outputs, batch) -> [batch]`, or per position
        `[batch, positions]`, each loss of its own outputs only.
      mask_fn: `(batch) -> [batch, positions]`, true where a position is valid. With
        it, the root mean square over valid positions; the losses must then be per
        position.

    Returns:
      `(params, rng, batch) -> [batch]`.

    Raises:
      ValueError: from the score, if the losses are reduced over the batch, or over
        positions beside a mask.

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
        outputs = apply_fn(params, rng, batch)
        gradient = _output_gradient(output_loss_fn, outputs, batch, mask_fn)
        return _norm(gradient, batch, mask_fn)

    return score


def ntk_guided(apply_fn: ApplyFn, output_loss_fn: OutputLossFn) -> ScoreFn:
    """‖(K g)_i‖, how far a gradient step on the whole batch moves example i's outputs.

    g = ∂L/∂f of the mean loss over the batch and K = J Jᵀ its empirical neural
    tangent kernel: error and leverage together. K is never formed; w = J (Jᵀ g) takes
    one backward and one forward-mode pass over all parameters.

    Args:
      apply_fn: `(params, rng, batch) -> [batch, ...]`, the outputs f.
      output_loss_fn: `(outputs, batch) -> [batch]`, or per position.

    Returns:
      `(params, rng, batch) -> [batch]`. A score depends on the batch it is computed
      in: score the pool in one batch, or in batches that are samples of it.

    Raises:
      ValueError: from the score, if the losses are reduced over the batch.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> score = attent_jax.scores.ntk_guided(
      ...     lambda w, rng, batch: batch["x"] * w, lambda f, batch: f**2 / 2)
      >>> score(jnp.array(1.0), None, {"x": jnp.array([1.0, 2.0])})  # K g = x (x·g)
      Array([2.5, 5. ], dtype=float32)

    Reference: NTK-Guided Implicit Neural Teaching (arXiv 2511.15487), eq. 8.
    """

    def score(params, rng, batch):
        def outputs_of(params):
            return apply_fn(params, rng, batch)

        outputs, pull_back = jax.vjp(outputs_of, params)
        gradient = _output_gradient(output_loss_fn, outputs, batch) / len(outputs)
        (direction,) = pull_back(gradient)
        _, moved = jax.jvp(outputs_of, (params,), (direction,))
        return _norm(moved, batch)

    return score


def _output_gradient(output_loss_fn, outputs, batch, mask_fn=None):
    """∂L/∂f, each loss's by its own outputs."""

    def total(outputs):
        losses = output_loss_fn(outputs, batch)
        ndim = 1 if mask_fn is None else mask_fn(batch).ndim
        if losses.shape[:ndim] != outputs.shape[:ndim] or losses.ndim < ndim:
            raise ValueError(
                f"output_loss_fn must return one loss per example"
                f"{' and position' if ndim > 1 else ''}, shape {outputs.shape[:ndim]}, "
                f"but returned shape {losses.shape}: drop the mean or sum."
            )
        return jnp.sum(losses)

    return jax.grad(total)(outputs)


def _norm(array, batch, mask_fn=None) -> Float[Array, "batch"]:
    """Frobenius norm per example; with a mask, its root mean square over positions."""
    leading_size("batch", batch)
    mask = None if mask_fn is None else mask_fn(batch)
    kept = 1 if mask is None else mask.ndim
    squares = jnp.sum(jnp.square(array), axis=tuple(range(kept, array.ndim)))
    return jnp.sqrt(squares if mask is None else masked_mean(squares, mask))
