"""Kernels from Jacobians with respect to a part of the parameters at a time.

K = J Jᵀ = Σ J_p J_pᵀ over parts p of the parameters. Each part's Jacobian is computed
once for all examples, so the work is linear in their number (but for the product), and
memory is that of one part.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attent_jax.typing import Batch

RowFn = Callable[[list[Array], Batch], Array]
"""`(leaves, example) -> outputs` of one example, without its axis."""


class Part(NamedTuple):
    """Leaves that are differentiated together, or slices of a single large one."""

    leaves: tuple[int, ...]
    """Positions in the list of trained leaves."""
    num_slices: int
    """1, or in how many slices the leaf's entries are taken."""


def parts_of(sizes: Sequence[int], largest: int) -> list[Part]:
    """Divide leaves of these sizes into parts of at most `largest` entries."""
    parts, together, total = [], [], 0
    for position, size in enumerate(sizes):
        if size > largest:
            parts.append(Part((position,), math.ceil(size / largest)))
            continue
        if total + size > largest:
            parts.append(Part(tuple(together), 1))
            together, total = [], 0
        together.append(position)
        total += size
    if together:
        parts.append(Part(tuple(together), 1))
    return parts


def jacobian(
    row_fn: RowFn, leaves: list[Array], part: Part, x: Batch, batch_size: int | None
) -> Callable[[Array], Array]:
    """`(number of the slice) -> [n, outputs, entries]` of the part, for every example.

    Entries after a leaf's end are 0.
    """
    size = sum(leaves[position].size for position in part.leaves)
    width = math.ceil(size / part.num_slices)

    def of_slice(number: Array) -> Array:
        def of_row(example: Batch) -> Array:
            def outputs_of(some: list[Array]) -> Array:
                replaced = list(leaves)
                for position, leaf in zip(part.leaves, some, strict=True):
                    replaced[position] = leaf
                return row_fn(replaced, example).ravel()

            outputs, pull_back = jax.vjp(
                outputs_of, [leaves[position] for position in part.leaves]
            )
            basis = jnp.eye(outputs.size, dtype=outputs.dtype)
            (gradients,) = jax.vmap(pull_back)(basis)
            flat = jnp.concatenate(
                [leaf.reshape(outputs.size, -1) for leaf in gradients], axis=1
            )
            if part.num_slices == 1:
                return flat
            flat = jnp.pad(flat, ((0, 0), (0, width * part.num_slices - size)))
            return jax.lax.dynamic_slice_in_dim(flat, number * width, width, axis=1)

        if batch_size is None:
            return jax.vmap(of_row)(x)
        return jax.lax.map(of_row, x, batch_size=batch_size)

    return of_slice


def kernels_of_parts(
    row_fn: RowFn,
    leaves: list[Array],
    groups: Sequence[Sequence[Part]],
    x1: Batch,
    x2: Batch | None,
    contract: Callable[[Array, Array], Array],
    *,
    batch_size: int | None = None,
    gather: Callable[[Array], Array] = lambda jacobian: jacobian,
) -> list[Array]:
    """For each group, Σ over its parts' slices of `contract(J(x1), gather(J(x2)))`."""

    def of_part(part: Part) -> Callable[[Array], Array]:
        first = jacobian(row_fn, leaves, part, x1, batch_size)
        second = first if x2 is None else jacobian(row_fn, leaves, part, x2, batch_size)

        def of_slice(number: Array) -> Array:
            rows = first(number)
            return contract(rows, gather(rows if x2 is None else second(number)))

        return of_slice

    parts = [(group, part) for group, parts in enumerate(groups) for part in parts]
    of_parts = [of_part(part) for _, part in parts]
    start = jnp.zeros((), int)
    if len(parts) == 1 and parts[0][1].num_slices == 1:
        return [of_parts[0](start)]

    def add(kernels: Array, place: tuple[Array, Array, Array]) -> tuple[Array, None]:
        group, part, number = place
        return kernels.at[group].add(jax.lax.switch(part, of_parts, number)), None

    # A loop, because XLA would hold the Jacobians of independent parts all at once.
    places = [
        (group, position, number)
        for position, (group, part) in enumerate(parts)
        for number in range(part.num_slices)
    ]
    shape = jax.eval_shape(of_parts[0], start)
    empty = jnp.zeros((len(groups), *shape.shape), shape.dtype)
    return list(jax.lax.scan(add, empty, tuple(jnp.array(places).T))[0])


def contraction(
    outputs1: tuple[int, ...], outputs2: tuple[int, ...], traced: set[int]
) -> Callable[[Array, Array], Array]:
    """`(J1, J2) -> kernel` in the layout of `theory.layout`, the traced axes averaged.

    Args:
      outputs1: the shape of one example's outputs of x1.
      outputs2: that of x2.
      traced: axes of `[n, *outputs]` whose equal entries are averaged.
    """
    ndim = 1 + len(outputs1)
    kept = [axis for axis in range(1, ndim) if axis not in traced]
    order = [0, *kept, *sorted(traced), ndim]
    num_traced = math.prod(outputs1[axis - 1] for axis in traced)

    def as_rows(jacobian: Array, outputs: tuple[int, ...]) -> tuple[Array, list[int]]:
        axes = jacobian.reshape(len(jacobian), *outputs, -1).transpose(order)
        lengths = [*axes.shape[: 1 + len(kept)]]
        return axes.reshape(math.prod(lengths), -1), lengths

    def contract(first: Array, second: Array) -> Array:
        rows, lengths1 = as_rows(first, outputs1)
        columns, lengths2 = as_rows(second, outputs2)
        kernel = (rows @ columns.T).reshape(*lengths1, *lengths2) / num_traced
        half = len(lengths1)
        return kernel.transpose([a for i in range(half) for a in (i, half + i)])

    return contract
