"""Losses as scores."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax._checks import check_per_example, leading_size
from attent_jax._factories import described
from attent_jax.typing import Batch, LossFn, ScoreFn


@described
def loss(loss_fn: LossFn) -> ScoreFn:
    """The per-example loss itself: the score that the paper uses in practice.

    For a loss that is convex in the outputs, the order of the examples is that of
    their discrepancy.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`, not reduced over the batch. For
        sequences, the mean over valid positions (`scores.masked_mean`).

    Returns:
      `(params, rng, batch) -> [batch]`.

    Raises:
      ValueError: from the score, if `loss_fn` does not return one loss per example.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> score = attent_jax.scores.loss(lambda w, rng, batch: (batch - w) ** 2)
      >>> score(1.0, None, jnp.array([1.0, 3.0]))
      Array([0., 4.], dtype=float32)

    Reference: Nonparametric Teaching of Attention Learners (arXiv 2602.20461), Alg. 1.
    """

    def score(params, rng, batch):
        """`(params, rng, batch) -> [batch]`, each example's loss."""
        losses = loss_fn(params, rng, batch)
        check_per_example("loss_fn", losses, leading_size("batch", batch))
        return losses

    return score


@described
def reducible_loss(
    loss_fn: LossFn, reference: Callable[[Batch], Float[Array, "batch"]]
) -> ScoreFn:
    """The loss in excess of a reference model's: what can still be learnt.

    Noise, which no model predicts, has a high reference loss too, and scores low.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`.
      reference: `(batch) -> [batch]`, the same loss under a model trained on other
        data, computed here or stored in the batch.

    Returns:
      `(params, rng, batch) -> [batch]`.

    Raises:
      ValueError: from the score, if either does not return one loss per example.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> score = attent_jax.scores.reducible_loss(
      ...     lambda w, rng, batch: (batch["x"] - w) ** 2,
      ...     reference=lambda batch: batch["reference_loss"])
      >>> score(0.0, None, {
      ...     "x": jnp.array([2.0, 3.0]), "reference_loss": jnp.array([0.0, 9.0])})
      Array([4., 0.], dtype=float32)

    Reference: Mindermann et al., Prioritized Training on Points that are Learnable,
    Worth Learning, and Not Yet Learnt (ICML 2022), eq. 3.
    """
    score_loss = loss(loss_fn)

    def score(params, rng, batch):
        """`(params, rng, batch) -> [batch]`, loss − reference loss."""
        losses = score_loss(params, rng, batch)
        references = reference(batch)
        check_per_example("reference", references, losses.size)
        return losses - jnp.asarray(references).astype(losses.dtype)

    return score
