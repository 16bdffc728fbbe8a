"""One forward pass on all rows of a batch, the backward pass on some of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Float, Int, PyTree

from attent_jax._checks import leading_size
from attent_jax.training.selective._groups import batch_rows, take_in_groups
from attent_jax.training.selective._row_independence import (
    RowsNotIndependent,
    check_position_independent,
    check_row_independent,
    rows_of,
)
from attent_jax.typing import Batch, Params, Rng

Gradient = Callable[
    [Int[Array, "groups selected"], Float[Array, "all_selected"]], Params
]


def partial_vjp(
    losses_and_aux: Callable[[Params, Rng, Batch], tuple[Float[Array, "batch"], Any]],
    params: Params,
    rng: Rng,
    batch: Batch,
    num_selected: int,
) -> tuple[Float[Array, "batch"], PyTree, Gradient]:
    """The losses of all rows, and their gradient over any `num_selected` of them.

    The function that `jax.vjp` returns is a pytree, its leaves the residuals: what the
    backward pass needs of the forward pass. Traced with `num_selected` rows it has the
    same leaves, smaller. So the residuals of all rows, gathered for the selected ones
    and put into the smaller one's structure, are the selected rows' backward pass.

    Returns:
      Losses `[batch]`, auxiliary output, and `(indices, cotangents) -> gradient` of
      Σ cotangent · loss over these rows: indices `[groups, selected]` number the rows
      within equal, contiguous groups of the batch.

    Raises:
      ValueError: if it is not proven that the rows do not meet on the way.
    """

    def forward(params, rng, batch):
        return jax.vjp(
            lambda params: losses_and_aux(params, rng, batch), params, has_aux=True
        )

    num_examples = leading_size("batch", batch)
    # One row alone is traced to another program: it broadcasts where two do not.
    num_traced = max(2, num_selected)
    if num_traced >= num_examples:
        losses, pull_back, aux = forward(params, rng, batch)

        def gradient_of_all(indices, cotangents):
            rows = batch_rows(indices, num_examples)
            return pull_back(jnp.zeros_like(losses).at[rows].add(cotangents))[0]

        return losses, aux, gradient_of_all

    trace = jax.make_jaxpr(forward, return_shape=True)
    fewer = jax.tree.map(lambda leaf: leaf[:num_traced], batch)
    program, outputs = trace(params, rng, batch)
    other, other_outputs = trace(params, rng, fewer)
    sizes = num_examples, num_traced
    try:
        check_row_independent(program, other, sizes)
        where = _rows_of_residuals(outputs[1], other_outputs[1], sizes)
    except RowsNotIndependent as found:
        raise _refusal(found) from None
    values = jaxpr_as_fun(program)(*jax.tree.leaves((params, rng, batch)))
    losses, pull_back, aux = jax.tree.unflatten(jax.tree.structure(outputs), values)

    def gradient(indices, cotangents):
        if num_traced > num_selected:
            indices = jnp.repeat(indices, 2, axis=1)
            cotangents = jnp.concatenate([cotangents, jnp.zeros_like(cotangents)])
        residuals = [
            residual if rows is None else take_in_groups(residual, indices, *rows)
            for residual, rows in zip(jax.tree.leaves(pull_back), where, strict=True)
        ]
        structure = jax.tree.structure(other_outputs[1])
        pull_back_rows = jax.tree.unflatten(structure, residuals)
        try:
            check_position_independent(
                jax.make_jaxpr(pull_back)(losses),
                jax.make_jaxpr(pull_back_rows)(cotangents),
                sizes,
            )
        except RowsNotIndependent as found:
            raise _refusal(found) from None
        return pull_back_rows(cotangents)[0]

    return losses, aux, gradient


def _rows_of_residuals(one: Any, other: Any, sizes: tuple[int, int]) -> list:
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    if len(leaves) != len(others):
        raise RowsNotIndependent(
            f"the backward pass keeps {len(leaves)} residuals for {sizes[0]} rows and "
            f"{len(others)} for {sizes[1]}"
        )
    return [
        rows_of(leaf, twin, sizes, f"residual {number} ({leaf.dtype})")
        for number, (leaf, twin) in enumerate(zip(leaves, others, strict=True))
    ]


def _refusal(found: RowsNotIndependent) -> ValueError:
    return ValueError(
        f"reuse_forward=True needs a loss that provably treats each row of the batch "
        f"by itself, but {found}: mend that, or pass reuse_forward=False."
    )
