"""Gradients by the outputs, and norms of output-shaped arrays, per example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax._checks import leading_size
from attent_jax.scores._dtypes import at_least_float32
from attent_jax.scores._masked_mean import masked_mean
from attent_jax.typing import Batch, OutputLossFn

MaskFn = Callable[[Batch], Array]


def output_gradient(
    output_loss_fn: OutputLossFn,
    outputs: Float[Array, "batch ..."],
    batch: Batch,
    mask_fn: MaskFn | None = None,
) -> Float[Array, "batch ..."]:
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


def output_norm(
    array: Float[Array, "batch ..."], batch: Batch, mask_fn: MaskFn | None = None
) -> Float[Array, "batch"]:
    """Frobenius norm per example; with a mask, its root mean square over positions."""
    leading_size("batch", batch)
    mask = None if mask_fn is None else mask_fn(batch)
    kept = 1 if mask is None else mask.ndim
    squares = jnp.square(at_least_float32(array))
    squares = jnp.sum(squares, axis=tuple(range(kept, array.ndim)))
    return jnp.sqrt(squares if mask is None else masked_mean(squares, mask))
