"""Proof that a program keeps the rows of its batch apart.

A program traced twice, at two batch sizes, shows by what changes between the two where
each of its values keeps the batch. What is left to check is that no operation moves
something from one row to another. `_row_rules` says so for each primitive; a
primitive without a rule may mix rows, and proves nothing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from attent_jax.training.selective._row_rules import (
    RANDOM,
    RULES,
    Rows,
    is_kept,
    is_same_in_all_rows,
    names,
    shape_of,
)

_CALLS = names(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr scan while cond"
)
_STEPS = ("length", "reverse")  # of a scan
_SHAPES = names("shape new_sizes limit_indices slice_sizes sizes")
"""Parameters that say how large something is, on the rows' axis too."""


class RowsNotIndependent(ValueError):
    """Rows meet, or may meet; the message says where."""


def rows_of(value: Any, other: Any, sizes: tuple[int, int], name: str) -> Rows | None:
    """Where `value` keeps the rows, by its type in both traces; None: nowhere.

    Args:
      value: has a shape and dtype; of the trace with sizes[0] rows.
      other: the same value in the trace with sizes[1] rows.
      sizes: the two numbers of rows.
      name: of the value, for the message.

    Raises:
      RowsNotIndependent: if more than one axis follows the batch, or not in proportion.
    """
    shapes = (getattr(value, "shape", ()), getattr(other, "shape", ()))
    if len(shapes[0]) == len(shapes[1]):
        sizes_by_axis = enumerate(zip(*shapes, strict=True))
        changed = [axis for axis, (one, two) in sizes_by_axis if one != two]
        if not changed:
            return None
        if len(changed) == 1:
            (axis,) = changed
            block, rest = divmod(shapes[0][axis], sizes[0])
            if not rest and shapes[1][axis] == block * sizes[1]:
                return Rows(axis, block)
    raise RowsNotIndependent(
        f"{name} has shape {shapes[0]} for {sizes[0]} rows and {shapes[1]} for "
        f"{sizes[1]}, so it is not one entry, or block of entries, a row"
    )


def check_row_independent(
    program: ClosedJaxpr, other: ClosedJaxpr, sizes: tuple[int, int]
) -> None:
    """Refuse a program in which rows may meet.

    Args:
      program: traced with sizes[0] rows.
      other: the same function, traced with sizes[1] rows.
      sizes: the two numbers of rows.

    Raises:
      RowsNotIndependent: naming the operation, its result and the module it is in.
    """
    for eqn, ins, outs in _walk(program, other, sizes):
        if not any(ins):
            if any(outs) and not (
                eqn.primitive.name in RANDOM or is_same_in_all_rows(eqn, outs)
            ):
                raise RowsNotIndependent(
                    f"{_describe(eqn)} tells rows apart by their place (index with "
                    f"take_along_axis in place of arange)"
                )
        elif not is_kept(eqn, ins, outs):
            has_rule = eqn.primitive.name in RULES
            raise RowsNotIndependent(
                f"{_describe(eqn)} mixes rows (as batch norm does; use layer norm)"
                if has_rule
                else f"{_describe(eqn)} may mix rows: there is no rule for it"
            )


def check_position_independent(
    program: ClosedJaxpr, other: ClosedJaxpr, sizes: tuple[int, int]
) -> None:
    """Refuse a program that makes something new by a row's place: a draw, an index.

    Arguments and errors as for `check_row_independent`.
    """
    for eqn, ins, outs in _walk(program, other, sizes, is_backward=True):
        is_new = any(outs) and not any(ins)
        if is_new and not is_same_in_all_rows(eqn, outs):
            raise RowsNotIndependent(
                f"{_describe(eqn)} of the backward pass depends on a row's place "
                f"(dropout inside jax.checkpoint draws its masks a second time; draw "
                f"them outside, or keep them by a checkpoint policy)"
            )


def _walk(
    program: ClosedJaxpr | Jaxpr,
    other: ClosedJaxpr | Jaxpr,
    sizes: tuple[int, int],
    *,
    is_backward: bool = False,
) -> Iterator[tuple[JaxprEqn, list[Rows | None], list[Rows | None]]]:
    """Each operation that calls no other, and where it keeps rows: inputs, outputs.

    Of the backward pass the smaller trace is run, so that what it knows of the number
    of rows is right; the forward pass may not know it.
    """
    one, two = (getattr(closed, "jaxpr", closed) for closed in (program, other))
    constants = [getattr(closed, "consts", ()) for closed in (program, other)]
    if any(
        len(these) != len(those)
        for these, those in (
            constants,
            (one.eqns, two.eqns),
            (one.invars, two.invars),
            (one.outvars, two.outvars),
        )
    ):
        raise RowsNotIndependent("the program itself depends on the number of rows")
    if not is_backward:
        for pair in zip(*constants, strict=True):
            _check_same_constant(*pair)
        for pair in zip(one.outvars, two.outvars, strict=True):
            _rows_of_atom(*pair, sizes, "a result", is_backward)
    for eqn, twin in zip(one.eqns, two.eqns, strict=True):
        is_alike = (
            eqn.primitive is twin.primitive
            and len(eqn.invars) == len(twin.invars)
            and len(_programs_in(eqn)) == len(_programs_in(twin))
            and (is_backward or _have_same_params(eqn, twin, sizes))
        )
        if not is_alike:
            raise RowsNotIndependent(f"{_describe(eqn)} depends on the number of rows")
        ins, outs = (
            [
                _rows_of_atom(*pair, sizes, _describe(eqn), is_backward)
                for pair in zip(atoms, twins, strict=True)
            ]
            for atoms, twins in ((eqn.invars, twin.invars), (eqn.outvars, twin.outvars))
        )
        inner = list(zip(_programs_in(eqn), _programs_in(twin), strict=True))
        if inner and eqn.primitive.name in _CALLS:
            if eqn.primitive.name == "scan" and not is_backward:
                _check_steps(eqn, ins)
            for body, body_twin in inner:
                yield from _walk(body, body_twin, sizes, is_backward=is_backward)
        else:
            yield eqn, ins, outs


def _rows_of_atom(
    one: Any, two: Any, sizes: tuple[int, int], name: str, is_backward: bool
) -> Rows | None:
    if isinstance(one, Literal) and isinstance(two, Literal):
        if not is_backward:
            _check_same_constant(one.val, two.val, name)
        return None
    return rows_of(one.aval, two.aval, sizes, name)


def _check_same_constant(one: Any, two: Any, name: str = "the program") -> None:
    if one is two or isinstance(one, Tracer) or isinstance(two, Tracer):
        return
    one, two = np.asarray(one), np.asarray(two)
    # Bytes, as NaN is not equal to itself.
    if one.shape != two.shape or one.tobytes() != two.tobytes():
        raise RowsNotIndependent(
            f"{name} has a constant that depends on the number of rows (what belongs "
            f"to the examples is to come with the batch)"
        )


def _have_same_params(eqn: JaxprEqn, twin: JaxprEqn, sizes: tuple[int, int]) -> bool:
    """Whether two operations differ in nothing but how many rows they work on."""
    names = _STEPS if eqn.primitive.name in _CALLS else eqn.params
    for name in names:
        one, two = eqn.params.get(name), twin.params.get(name)
        if one == two or (one != one and two != two):  # NaN, say of a gather
            continue
        if not (isinstance(one, tuple) and isinstance(two, tuple)):
            return False
        is_shape = name in _SHAPES and len(one) == len(two)
        if not is_shape or any(
            a != b and a * sizes[1] != b * sizes[0]
            for a, b in zip(one, two, strict=True)
        ):
            return False
    return True


def _programs_in(eqn: JaxprEqn) -> list[Any]:
    return [found for value in eqn.params.values() for found in _programs_of(value)]


def _programs_of(value: Any) -> list[Any]:
    items = value if isinstance(value, tuple | list) else [value]
    return [item for item in items if hasattr(getattr(item, "jaxpr", item), "eqns")]


def _describe(eqn: JaxprEqn) -> str:
    results = ", ".join(str(var.aval) for var in eqn.outvars)
    where = str(eqn.source_info.name_stack)
    return f"`{eqn.primitive.name}` -> {results}" + (f" in {where}" if where else "")


def _check_steps(eqn: JaxprEqn, ins: list[Rows | None]) -> None:
    """Refuse a scan that takes its steps along the rows."""
    (body,) = _programs_in(eqn)
    for outer, inner, rows in zip(eqn.invars, body.jaxpr.invars, ins, strict=True):
        is_stepped = len(shape_of(inner)) < len(shape_of(outer))
        if is_stepped and rows is not None and rows.axis == 0:
            raise RowsNotIndependent(f"{_describe(eqn)} steps over the rows")
