"""Proof that a program keeps the rows of its batch apart.

A program traced at two batch sizes shows, by what changes between the traces, which of
its values have rows. Both traces are walked together. They must be the same program,
wired alike, and each operation must keep rows apart, as `_one_operation` and
`_control_flow` find. What mixes rows is no error in itself: it is one if a result
depends on it.

In a backward pass the gradients of shared parameters are sums over rows; the rules for
those are in `_sum_rules`.
"""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

from attent_jax.training.selective._compare_programs import (
    CALLS,
    Program,
    RowsNotIndependent,
    Variables,
    constant_value,
    have_same_params,
    open_program,
    paired_operations,
)
from attent_jax.training.selective._control_flow import CONTROL_FLOW, call
from attent_jax.training.selective._one_operation import values_of
from attent_jax.training.selective._row_values import (
    SHARED,
    Operation,
    Origin,
    Value,
    mixed,
    rows_created,
    shape_of,
)


def input_values(ones: Sequence[Any], twos: Sequence[Any], sizes: Any) -> list[Value]:
    """Of a program's inputs, by their shapes in both traces: rows are the batch's."""
    return [
        Value(Origin.ROW, rows) if rows else SHARED
        for rows in (
            rows_created(shape_of(a), shape_of(b), sizes)
            for a, b in zip(ones, twos, strict=True)
        )
    ]


def output_values(
    program: ClosedJaxpr,
    other: ClosedJaxpr,
    sizes: tuple[int, int],
    inputs: Sequence[Value],
    *,
    is_backward: bool = False,
) -> list[Value]:
    """What is known of a program's outputs.

    Args:
      program: traced with sizes[0] rows.
      other: the same function, traced with sizes[1] rows.
      sizes: two numbers of rows, both at least 2.
      inputs: what is known of the inputs.
      is_backward: whether sums over rows are allowed, and random draws refused.

    Raises:
      RowsNotIndependent: if the two traces are not the same program.
    """
    return _Walk(sizes, is_backward)(program, other, inputs)


class _Walk:
    """One walk through two traces of a program."""

    def __init__(self, sizes: tuple[int, int], is_backward: bool):
        self._sizes = sizes
        self._is_backward = is_backward

    def __call__(
        self, program: Program, other: Program, inputs: Sequence[Value]
    ) -> list[Value]:
        one, two = open_program(program), open_program(other)
        variables = Variables(one, two)
        values = dict(zip(one.invars, inputs, strict=True))
        constants = (getattr(closed, "consts", ()) for closed in (program, other))
        for var, a, b in zip(one.constvars, *constants, strict=True):
            values[var] = constant_value(a, b, self._sizes, "it")

        def read(atom, twin, reader):
            if not variables.are_twins(atom, twin):
                return mixed(
                    f"{reader} is computed from other values for another number of "
                    f"rows, or in another trace"
                )
            if isinstance(atom, Literal):
                return constant_value(atom.val, twin.val, self._sizes, reader)
            return values[atom]

        for op in paired_operations(one, two, self._sizes):
            pairs = zip(op.eqn.invars, op.twin.invars, strict=True)
            ins = [read(*pair, op) for pair in pairs]
            variables.define(op.eqn.outvars, op.twin.outvars)
            values.update(zip(op.eqn.outvars, self._outputs(op, ins), strict=True))
        if len(one.outvars) != len(two.outvars):
            raise RowsNotIndependent(
                f"it has {len(one.outvars)} results for {self._sizes[0]} rows and "
                f"{len(two.outvars)} for {self._sizes[1]}"
            )
        pairs = zip(one.outvars, two.outvars, strict=True)
        return [read(*pair, "a result") for pair in pairs]

    def _outputs(self, op: Operation, ins: list[Value]) -> list[Value]:
        if not have_same_params(op):
            is_stepped = op.params.get("length") != op.twin.params.get("length")
            reason = (
                "takes a step for each row (use jax.vmap over the rows)"
                if is_stepped
                else "depends on the number of rows"
            )
            return op.all_results(mixed(f"{op} {reason}"))
        if op.name in CALLS:
            return call(self, op, ins)
        if op.name in CONTROL_FLOW:
            return CONTROL_FLOW[op.name](self, op, ins)
        values = values_of(op, ins, self._is_backward)
        return [
            value
            if value.origin is Origin.MIXED or op.has_rows_at(value.rows, number)
            else mixed(f"{op} mixes rows")
            for number, value in enumerate(values)
        ]
