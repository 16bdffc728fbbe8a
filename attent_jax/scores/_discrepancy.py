"""Distances in function space: the scores of the paper's theory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax._checks import leading_size
from attent_jax._factories import described
from attent_jax._trainable import merge_params, partition_params
from attent_jax.scores._dtypes import at_least_float32
from attent_jax.scores._masked_mean import masked_mean
from attent_jax.typing import ApplyFn, Batch, OutputLossFn, ScoreFn, Trainable


@described
def discrepancy(
    apply_fn: ApplyFn,
    *,
    target_fn: Callable[[Batch], Array] | None = None,
    mask_fn: Callable[[Batch], Array] | None = None,
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
        return _norm(difference, batch, mask_fn)

    return score


@described
def functional_gradient_norm(
    apply_fn: ApplyFn,
    output_loss_fn: OutputLossFn,
    *,
    mask_fn: Callable[[Batch], Array] | None = None,
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
        gradient = _output_gradient(output_loss_fn, outputs, batch, mask_fn)
        return _norm(gradient, batch, mask_fn)

    return score


@described
def ntk_guided(
    apply_fn: ApplyFn, output_loss_fn: OutputLossFn, *, trainable: Trainable = True
) -> ScoreFn:
    """‖(K g)_i‖, how far a gradient step on the whole batch moves example i's outputs.

    g = ∂L/∂f is that of the mean loss over the batch, and K = J Jᵀ is the empirical
    neural tangent kernel of the trained parameters. K is never formed: K g = J (Jᵀ g)
    takes one backward and one forward-mode pass.

    Args:
      apply_fn: `(params, rng, batch) -> [batch, ...]`, the outputs f.
      output_loss_fn: `(outputs, batch) -> [batch]`, or per position.
      trainable: which parameters are trained: True for all, a pytree prefix of bools,
        or a function of a leaf's path; see `training.partition_params`.

    Returns:
      `(params, rng, batch) -> [batch]`. A score depends on the other examples of its
      batch: score the pool in one batch, or in batches that are samples of it.

    Raises:
      TypeError, ValueError: from the score, if the losses are reduced over the batch,
        if a trained leaf is not floating point, or if `trainable` does not fit the
        parameters.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> score = attent_jax.scores.ntk_guided(
      ...     lambda w, rng, batch: batch["x"] * w, lambda f, batch: f**2 / 2)
      >>> score(jnp.array(1.0), None, {"x": jnp.array([1.0, 2.0])})  # K g = x (x·g)
      Array([2.5, 5. ], dtype=float32)

    Reference: NTK-Guided Implicit Neural Teaching (arXiv 2511.15487), eq. 8.
    """

    def score(params, rng, batch):
        """`(params, rng, batch) -> [batch]`, norms of the kernel times the gradient."""
        trained, frozen = partition_params(params, trainable)

        def outputs_of(trained):
            return apply_fn(merge_params(trained, frozen), rng, batch)

        # One forward pass for both products: of two, XLA merges them on one device but
        # not always on a mesh.
        outputs, push_forward = jax.linearize(outputs_of, trained)
        pull_back = jax.linear_transpose(push_forward, trained)
        gradient = _output_gradient(output_loss_fn, outputs, batch) / len(outputs)
        (direction,) = pull_back(gradient)
        return _norm(push_forward(direction), batch)

    return score


def _output_gradient(output_loss_fn, outputs, batch, mask_fn=None):
    """∂L/∂f, of each loss by its own outputs."""

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
    squares = jnp.square(at_least_float32(array))
    squares = jnp.sum(squares, axis=tuple(range(kept, array.ndim)))
    return jnp.sqrt(squares if mask is None else masked_mean(squares, mask))
