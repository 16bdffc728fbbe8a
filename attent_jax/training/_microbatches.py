"""Gradients accumulated over parts of a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from attent_jax._checks import leading_size
from attent_jax.typing import Batch, Params, Rng


def accumulate(
    gradient_fn: Callable[
        [Params, Rng, Batch, Float[Array, "micro"]],
        tuple[tuple[Float[Array, "micro"], Any], Params],
    ],
    trained: Params,
    rng: Rng,
    batch: Batch,
    weights: Float[Array, "batch"],
    num_microbatches: int,
) -> tuple[tuple[Float[Array, "batch"], Any], Params]:
    """Sum `gradient_fn` over the microbatches, one after the other.

    Microbatch m takes rows m, m + num_microbatches, ...: every device of a mesh that
    splits the batch has its share of each. Its number is folded into rng. Sums are in
    float32 at least.

    Args:
      gradient_fn: `(trained, rng, batch, weights) -> ((losses, aux), gradients)`.
      trained: what is differentiated.
      rng: a key or None.
      batch: leaves `[batch, ...]`.
      weights: `[batch]`.
      num_microbatches: how many.

    Returns:
      `((losses[batch], aux), gradients)`; of aux, leaves with one entry for each
      example in the batch's order, others stacked, `[num_microbatches, ...]`.
    """
    num_examples = leading_size("batch", batch)
    if num_examples % num_microbatches:
        raise ValueError(
            f"num_microbatches={num_microbatches} does not divide the batch's "
            f"{num_examples} examples: choose a divisor, or pad the batch with rows of "
            f"weight 0."
        )
    if num_microbatches == 1:
        return gradient_fn(trained, rng, batch, weights)
    size = num_examples // num_microbatches

    def split(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.moveaxis(leaf.reshape(size, num_microbatches, *leaf.shape[1:]), 1, 0)

    def join(leaf: Array) -> Array:
        if leaf.shape[1:2] != (size,):
            return leaf
        return jnp.moveaxis(leaf, 0, 1).reshape(num_examples, *leaf.shape[2:])

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, Any]:
        number, microbatch, microbatch_weights = part
        micro_rng = None if rng is None else jax.random.fold_in(rng, number)
        outputs, grads = gradient_fn(trained, micro_rng, microbatch, microbatch_weights)
        total = jax.tree.map(
            lambda sum_, grad: sum_ + grad.astype(sum_.dtype), total, grads
        )
        return total, outputs

    zeros = jax.tree.map(
        lambda leaf: jnp.zeros_like(
            leaf, dtype=np.promote_types(leaf.dtype, np.float32)
        ),
        trained,
    )
    parts = jnp.arange(num_microbatches), *jax.tree.map(split, (batch, weights))
    total, (losses, aux) = lax.scan(add, zeros, parts)
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), total, trained)
    return (join(losses), jax.tree.map(join, aux)), grads
