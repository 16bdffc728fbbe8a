"""One forward pass on all rows of a batch, the backward pass on some of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Float, Int, PyTree

from attent_jax._checks import leading_size
from attent_jax.training.selective._compare_programs import (
    RowsNotIndependent,
    open_program,
    programs_in,
)
from attent_jax.training.selective._groups import take_in_groups
from attent_jax.training.selective._one_row import check_one_row
from attent_jax.training.selective._row_independence import (
    input_values,
    output_values,
)
from attent_jax.training.selective._row_values import Origin, Rows, Value
from attent_jax.training.selective._saved_draws import save_random_draws
from attent_jax.typing import Batch, Params, Rng

LossesAndAux = Callable[[Params, Rng, Batch], tuple[Float[Array, "batch"], Any]]
Gradient = Callable[
    [Int[Array, "groups selected"], Float[Array, "all_selected"]], Params
]


def partial_vjp(
    losses_and_aux: LossesAndAux,
    params: Params,
    rng: Rng,
    batch: Batch,
    num_selected: int,
) -> tuple[Float[Array, "batch"], PyTree, Gradient]:
    """The losses of all rows, and their gradient over any `num_selected` of them.

    The function that `jax.vjp` returns is a pytree whose leaves are the residuals: what
    the backward pass needs of the forward pass. Traced with `num_selected` rows it has
    the same leaves, smaller. So the residuals of all rows are gathered for the selected
    ones and put into the smaller structure: this is the backward pass of the selected
    rows. Both passes are traced at two batch sizes to prove that rows do not meet.

    Args:
      losses_and_aux: returns losses `[batch]` and a pytree of arrays `[batch, ...]`.
      params: what to differentiate by.
      rng: a key, or None.
      batch: arrays `[batch, ...]`.
      num_selected: how many rows the gradient is of, static.

    Returns:
      Losses `[batch]`, auxiliary output, and `(indices, cotangents) -> gradient` of
      Σ cotangent · loss over these rows: indices `[groups, selected]` number the rows
      within equal, contiguous groups of the batch.

    Raises:
      ValueError: if it is not proven that rows do not meet, forward and backward.
    """
    num_rows = leading_size("batch", batch)
    # The program of one row is another one, as it broadcasts: one row is run twice.
    copies = 2 if num_selected == 1 else 1
    num_traced = copies * num_selected

    def trace_loss(size):
        try:
            return _trace_loss(losses_and_aux, params, rng, batch, size)
        except (TypeError, ValueError, OverflowError) as error:
            if size == num_rows:
                raise
            raise RowsNotIndependent(
                f"it cannot be traced for {size} rows: {str(error).splitlines()[0]}"
            ) from error

    def trace(size):
        return _trace(trace_loss(size), params, rng)

    main = trace(num_rows)
    try:
        small = main if num_traced == num_rows else trace(num_traced)
        twin = trace(2 * num_traced) if num_rows in (1, num_traced) else main
        residual_values = _prove(twin, small)
        if copies > 1:
            check_one_row(trace_loss(1).program, small.loss)
            _check_range(small.backward)
    except RowsNotIndependent as found:
        raise ValueError(
            f"reuse_forward=True needs a loss that provably treats each row of the "
            f"batch by itself, but {found}. Change the loss, or pass "
            f"reuse_forward=False."
        ) from None

    leaves = jax.tree.leaves((params, rng, batch))
    losses, pull_back, aux = main.run_forward(leaves)
    if num_rows == 1:
        return losses, aux, lambda indices, cotangents: pull_back(cotangents)[0]

    def gradient(indices, cotangents):
        if copies > 1:
            indices = jnp.repeat(indices, copies, axis=1)
            cotangents = jnp.repeat(cotangents, copies)
        residuals = [
            _gather_rows(residual, indices, value)
            for residual, value in zip(
                jax.tree.leaves(pull_back), residual_values, strict=True
            )
        ]
        grads = small.run_backward(residuals, cotangents)
        return jax.tree.map(lambda grad: grad / copies, grads) if copies > 1 else grads

    return losses, aux, gradient


class _TracedLoss(NamedTuple):
    """A loss, traced at one batch size."""

    program: ClosedJaxpr
    results: Any
    """Losses and aux, abstract."""
    batch: Any
    """Abstract."""
    size: int


class _Trace(NamedTuple):
    """Both passes of a loss, traced at one batch size."""

    size: int
    loss: ClosedJaxpr
    forward: ClosedJaxpr
    outputs: Any
    """Losses, the function that `jax.vjp` returns, aux; abstract."""
    backward: ClosedJaxpr
    gradient: Any
    """Abstract."""

    def run_forward(self, leaves: list[Any]) -> Any:
        values = jaxpr_as_fun(self.forward)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(self.outputs), values)

    def run_backward(self, residuals: list[Any], cotangents: Any) -> Any:
        values = jaxpr_as_fun(self.backward)(*residuals, cotangents)
        return jax.tree.unflatten(jax.tree.structure(self.gradient), values)


def _trace_loss(losses_and_aux, params, rng, batch, size) -> _TracedLoss:
    batch = jax.eval_shape(
        lambda batch: jax.tree.map(
            lambda leaf: jnp.take(leaf, jnp.zeros(size, int), axis=0), batch
        ),
        batch,
    )
    trace = jax.make_jaxpr(losses_and_aux, return_shape=True)
    return _TracedLoss(*trace(params, rng, batch), batch, size)


def _trace(loss: _TracedLoss, params, rng) -> _Trace:
    run_loss = jaxpr_as_fun(save_random_draws(loss.program))

    def forward(params, rng, batch):
        def run(params):
            values = run_loss(*jax.tree.leaves((params, rng, batch)))
            return jax.tree.unflatten(jax.tree.structure(loss.results), values)

        return jax.vjp(run, params, has_aux=True)

    program, outputs = jax.make_jaxpr(forward, return_shape=True)(
        params, rng, loss.batch
    )
    losses, pull_back, _ = outputs
    residuals, structure = jax.tree.flatten(pull_back)

    def pull_back_rows(residuals, cotangents):
        return jax.tree.unflatten(structure, residuals)(cotangents)[0]

    backward, gradient = jax.make_jaxpr(pull_back_rows, return_shape=True)(
        residuals, losses
    )
    return _Trace(loss.size, loss.program, program, outputs, backward, gradient)


def _prove(one: _Trace, two: _Trace) -> list[Value]:
    """What is known of each residual, if rows meet in neither pass.

    Raises:
      RowsNotIndependent: if they meet, or may meet.
    """
    sizes = one.size, two.size
    inputs = input_values(one.forward.jaxpr.invars, two.forward.jaxpr.invars, sizes)
    values = output_values(one.forward, two.forward, sizes, inputs)
    losses, pull_back, aux = jax.tree.unflatten(jax.tree.structure(one.outputs), values)
    residuals = jax.tree.leaves(pull_back, is_leaf=_is_value)
    results = [losses, *jax.tree.leaves(aux, is_leaf=_is_value)]
    for value in [*results, *residuals]:
        if value.origin is Origin.MIXED:
            raise RowsNotIndependent(value.reason)
    if any(value.origin in (Origin.PLACE, Origin.LABEL) for value in results):
        raise RowsNotIndependent("it returns the rows' places in the batch")
    cotangents = Value(Origin.ROW, Rows(0))
    grads = output_values(
        one.backward, two.backward, sizes, [*residuals, cotangents], is_backward=True
    )
    for value in grads:
        if value.origin is Origin.MIXED:
            raise RowsNotIndependent(value.reason)
        if value.origin not in (Origin.SUM, Origin.ZERO):
            raise RowsNotIndependent("a gradient does not come from the rows")
    return residuals


def _check_range(backward: Any) -> None:
    """Refuse gradients that may overflow when twice as large."""
    for eqn in open_program(backward).eqns:
        for var in eqn.outvars:
            dtype = getattr(var.aval, "dtype", jnp.float32)
            is_float = jnp.issubdtype(dtype, jnp.floating)
            if is_float and float(jnp.finfo(dtype).max) < 1e5:
                raise RowsNotIndependent(
                    f"one selected row is computed twice, which may overflow in "
                    f"{dtype} (select at least two rows)"
                )
        for value in eqn.params.values():
            for program in programs_in(value):
                _check_range(program)


def _is_value(node: Any) -> bool:
    return isinstance(node, Value)


def _gather_rows(
    residual: Any, indices: Int[Array, "groups selected"], value: Value
) -> Any:
    """The entries of these rows of a residual."""
    if value.rows is None:
        return residual
    axis, block, outer = value.rows
    shape = residual.shape
    if not residual.size:
        size = value.rows.size(indices.size)
        return jnp.zeros((*shape[:axis], size, *shape[axis + 1 :]), residual.dtype)
    split = residual.reshape(*shape[:axis], outer, -1, *shape[axis + 1 :])
    taken = take_in_groups(split, indices, axis + 1, block)
    taken = taken.reshape(*shape[:axis], -1, *shape[axis + 1 :])
    if value.origin is not Origin.PLACE:
        return taken
    places = jax.lax.broadcasted_iota(taken.dtype, taken.shape, axis)
    if value.columns is None:
        return places
    column = jax.lax.broadcasted_iota(int, taken.shape, taken.ndim - 1)
    is_place = jnp.isin(column, jnp.array(sorted(value.columns)))
    return jnp.where(is_place, places, taken)
