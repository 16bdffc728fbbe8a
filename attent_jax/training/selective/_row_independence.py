"""Proof that a program keeps the rows of its batch apart.

A program traced at two batch sizes shows, by what changes between the traces, which of
its values have rows. Both traces are walked together. They must be the same program,
wired alike, and each operation must keep rows apart by the rule of its primitive in
`_row_rules`. A primitive without a rule may mix rows and proves nothing. What mixes
rows is no error in itself: it is one if a result depends on it.

In a backward pass the gradients of shared parameters are sums over rows; the rules for
those are in `_sum_rules`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
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
    programs_in,
    scan_parts,
)
from attent_jax.training.selective._row_rules import RANDOM, RULES
from attent_jax.training.selective._row_values import (
    SHARED,
    SUM,
    ZERO,
    Operation,
    Origin,
    Rows,
    Value,
    has_rows_at,
    mixed,
    names,
    rows_created,
    shape_of,
)
from attent_jax.training.selective._sum_rules import (
    is_linear_in_sums,
    is_sum_over_rows,
)

_KEEPS_ZERO = names(
    "add add_any broadcast_in_dim concatenate convert_element_type copy copy_p "
    "expand_dims name neg pad pcast pvary reduce_sum reshape sharding_constraint slice "
    "squeeze stop_gradient sub tile transpose"
)
_KEEPS_PLACE = names(
    "broadcast_in_dim convert_element_type copy copy_p expand_dims name pvary reshape "
    "sharding_constraint squeeze stop_gradient transpose"
)
_KEEPS_CONSTANT = names("broadcast_in_dim convert_element_type reshape squeeze")
_INDEXES = names(
    "gather scatter scatter-add scatter_add scatter-mul scatter_mul scatter-min "
    "scatter_min scatter-max scatter_max"
)
_PLACE_REMEDY = (
    "tells rows apart by their place in the batch (give each row what it needs with "
    "the batch)"
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
        self,
        program: Program,
        other: Program,
        inputs: Sequence[Value],
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
            return self._all(op, mixed(f"{op} {reason}"))
        if op.name in CALLS:
            return self._call(op, ins)
        if op.name in _CONTROL_FLOW:
            return _CONTROL_FLOW[op.name](self, op, ins)
        outs = self._of_primitive(op, ins)
        return [
            value
            if value.origin is Origin.MIXED or self._fits(value.rows, *pair)
            else mixed(f"{op} mixes rows")
            for value, pair in zip(
                outs, zip(op.eqn.outvars, op.twin.outvars, strict=True), strict=True
            )
        ]

    def _fits(self, rows: Rows | None, one: Any, two: Any) -> bool:
        return has_rows_at(rows, shape_of(one), shape_of(two), self._sizes)

    def _all(self, op: Operation, value: Value) -> list[Value]:
        return [value] * len(op.eqn.outvars)

    # Operations that run other programs.

    def _call(self, op, ins):
        (body,), (twin,) = (
            [found for value in eqn.params.values() for found in programs_in(value)]
            for eqn in (op.eqn, op.twin)
        )
        return self(body, twin, ins)

    def _cond(self, op, ins):
        index, *operands = ins
        if index.origin not in (Origin.SHARED, Origin.ZERO):
            return self._all(op, _because(index, f"{op} chooses by several rows"))
        branches = zip(op.params["branches"], op.twin.params["branches"], strict=True)
        results = [self(*branch, operands) for branch in branches]
        return [_join(values, op) for values in zip(*results, strict=True)]

    def _while(self, op, ins):
        in_cond, in_body = (op.params[f"{name}_nconsts"] for name in ("cond", "body"))
        carry = ins[in_cond + in_body :]
        body, twin_body, cond, twin_cond = (
            params[f"{name}_jaxpr"]
            for name in ("body", "cond")
            for params in (op.params, op.twin.params)
        )
        consts = ins[in_cond : in_cond + in_body]
        carry = self._settle(op, carry, lambda c: self(body, twin_body, [*consts, *c]))
        (goes_on,) = self(cond, twin_cond, [*ins[:in_cond], *carry])
        if goes_on.origin not in (Origin.SHARED, Origin.ZERO):
            reason = f"{op} runs for as long as several rows say"
            return self._all(op, _because(goes_on, reason))
        return carry

    def _scan(self, op, ins):
        body, twin = op.params["jaxpr"], op.twin.params["jaxpr"]
        parts = scan_parts(op.eqn)
        if parts != scan_parts(op.twin):
            return self._all(op, mixed(f"{op} depends on the number of rows"))
        inputs = list(ins)
        for position in parts.steps:
            value = ins[position]
            if value.rows is not None and value.rows.axis == 0:
                inputs[position] = mixed(f"{op} steps over the rows")
            else:
                inputs[position] = value._replace(rows=_moved(value.rows, -1))

        def run(carry):
            for position, value in zip(parts.carry, carry, strict=True):
                inputs[position] = value
            return self(body, twin, inputs)

        def step(carry):
            outs = run(carry)
            return [outs[position] for position in parts.carry_out]

        carry = [ins[position] for position in parts.carry]
        outs = run(self._settle(op, carry, step))
        for position in parts.stacked:
            outs[position] = outs[position]._replace(
                rows=_moved(outs[position].rows, 1)
            )
        return outs

    def _settle(self, op, carry, step):
        """What holds of a loop's carry before and after every step."""
        while True:
            after = step(carry)
            joined = [_join(pair, op) for pair in zip(carry, after, strict=True)]
            if joined == carry:
                return carry
            carry = joined

    def _solve(self, op, ins):
        lengths = op.params["const_lengths"]
        before = lengths.matvec + lengths.vecmat
        consts = ins[before : before + lengths.solve]
        rest = ins[sum(lengths) :]
        solve, twin = (p["jaxprs"].solve for p in (op.params, op.twin.params))
        return self(solve, twin, [*consts, *rest])

    # Operations that do not.

    def _of_primitive(self, op: Operation, ins: list[Value]) -> list[Value]:
        if op.name == "optimization_barrier":
            return ins
        if _has_side_effects(op):
            return self._all(op, mixed(f"{op} may mix rows: it has side effects"))
        if op.name == "select_n" and ins[0].origin is Origin.ZERO:
            return [ins[1]]
        broken = next((value for value in ins if value.origin is Origin.MIXED), None)
        if broken is not None:
            return self._all(op, broken)
        if any(value.origin is Origin.LABEL for value in ins):
            return self._of_labels(op, ins)
        if any(value.origin is Origin.PLACE for value in ins):
            return self._of_places(op, ins)
        if not any(value.rows for value in ins):
            return self._of_no_rows(op, ins)
        if all(self._fits(None, *pair) for pair in self._result_pairs(op)):
            return self._all(op, self._reduced(op, ins))
        if any(value.origin is Origin.SUM for value in ins):
            return self._all(op, mixed(f"{op} puts a sum over rows back into rows"))
        return self._kept(op, ins)

    def _result_pairs(self, op):
        return zip(op.eqn.outvars, op.twin.outvars, strict=True)

    def _of_no_rows(self, op, ins):
        """Nothing that comes in has rows; what goes out may have."""
        is_sum = any(value.origin is Origin.SUM for value in ins)
        if is_sum and not is_linear_in_sums(op, ins):
            return self._all(op, mixed(f"{op} is not linear in a sum over rows"))
        is_zero = op.name in _KEEPS_ZERO and all(v.origin is Origin.ZERO for v in ins)
        without = SUM if is_sum else ZERO if is_zero else SHARED
        if op.name in _KEEPS_CONSTANT:
            without = ins[0]._replace(rows=None)
        outs = []
        for one, two in self._result_pairs(op):
            if self._fits(None, one, two):
                outs.append(without)
                continue
            rows = rows_created(shape_of(one), shape_of(two), self._sizes)
            if is_sum:
                outs.append(mixed(f"{op} puts a sum over rows back into rows"))
            elif rows is None:
                outs.append(mixed(f"{op} mixes rows"))
            else:
                outs.append(self._created(op, without._replace(rows=rows)))
        return outs

    def _created(self, op, value):
        """Rows made of what has none."""
        rows = value.rows
        is_along = op.name == "iota" and op.params["dimension"] == rows.axis
        if op.name in ("broadcast_in_dim", "tile") or (
            op.name == "iota" and not is_along
        ):
            return value
        if is_along and not _is_wide_integer(op):
            return mixed(f"{op} {_PLACE_REMEDY}")
        if is_along and rows.block == 1:
            return Value(Origin.PLACE, rows)
        if is_along and len(op.out_shapes[0]) == 1:
            return Value(Origin.LABEL, rows)
        if op.name in RANDOM and self._is_backward:
            return _drawn_again(op)
        if op.name in RANDOM:
            return Value(Origin.ROW, rows)
        return mixed(f"{op} {_PLACE_REMEDY}")

    def _kept(self, op, ins):
        """Row by row."""
        rule = RULES.get(op.name)
        if rule is None:
            return self._all(op, mixed(f"{op} may mix rows: there is no rule for it"))
        if op.name in RANDOM and self._is_backward and not _has_own_keys(op, ins):
            return self._all(op, _drawn_again(op))
        rows = rule(op, ins)
        with_rows = [value for value in ins if value.rows]
        if op.name in _KEEPS_ZERO and all(v.origin is Origin.ZERO for v in ins):
            origin = Origin.ZERO
        elif all(value.origin in (Origin.SHARED, Origin.ZERO) for value in with_rows):
            origin = Origin.SHARED
        else:
            origin = Origin.ROW
        found = rows if isinstance(rows, list) else [rows] * len(op.eqn.outvars)
        return [
            mixed(f"{op} mixes rows") if one is None else Value(origin, one)
            for one in found
        ]

    def _reduced(self, op, ins):
        """What has rows becomes what has none."""
        if self._is_backward and is_sum_over_rows(op, ins):
            return SUM
        if op.name not in RULES:
            return mixed(f"{op} may mix rows: there is no rule for it")
        if self._is_backward:
            return mixed(f"{op} of the backward pass mixes rows")
        return mixed(f"{op} mixes rows (as batch norm does; use layer norm)")

    def _of_places(self, op, ins):
        """An index that holds the row's number, on its way to a gather or scatter."""
        first = ins[0]
        if op.name in _KEEPS_PLACE and first.columns is None and _is_wide_integer(op):
            (kept,) = self._kept(op, ins)
            if kept.rows is not None and kept.rows == Rows(kept.rows.axis):
                return [Value(Origin.PLACE, kept.rows)]
        if op.name == "lt" and [v.origin for v in ins] == [Origin.PLACE, Origin.ZERO]:
            return [Value(Origin.ZERO, first.rows)]  # no place is negative
        if op.name == "add" and _is_label_added(first, ins[1]):
            return self._of_labels(op, ins)
        if op.name == "concatenate" and self._is_index(op, ins):
            (kept,) = self._kept(op, ins)
            if kept.origin is not Origin.MIXED:
                return [Value(Origin.PLACE, kept.rows, _place_columns(op, ins))]
        in_indices = len(ins) > 1 and ins[1].origin is Origin.PLACE
        alone = sum(value.origin is Origin.PLACE for value in ins) == 1
        if op.name in _INDEXES and in_indices and alone and ins[0].rows:
            return self._kept(op, ins)
        if op.name in RANDOM and not self._is_backward:
            return self._kept(op, ins)
        return self._depends_on_place(op, ins)

    def _depends_on_place(self, op, ins):
        kept = self._kept(op, ins)
        if any(value.origin is Origin.MIXED for value in kept):
            return kept
        return self._all(op, mixed(f"{op} {_PLACE_REMEDY}"))

    def _of_labels(self, op, ins):
        """Numbers of entries, by which jax finds the last of several scattered ones."""
        first, *others = ins
        (kept, *_) = self._kept(op, ins)
        if kept.origin is not Origin.MIXED:
            label = kept._replace(origin=Origin.LABEL, label=first.label)
            if op.name == "reshape":
                return [label]
            if op.name == "add" and _is_label_added(first, others[0]):
                return [label._replace(label=next(_LABELS))]
            # What the default fills in is no label.
            is_filled = op.params.get("fill_value") is not None
            reads = op.name == "gather" and first.label and not is_filled
            if reads and _is_index_of_rows(others[0]):
                return [label]
            if op.name == "scatter" and _is_index_of_rows(others[0]):
                label = label._replace(label=others[1].label)
                if first.origin is Origin.ZERO and label.label:
                    return [label]
            labels = {v.label for v in ins if v.origin is not Origin.ZERO}
            if op.name == "eq" and len(labels) == 1 and None not in labels:
                return [kept]
        return self._depends_on_place(op, ins)

    def _is_index(self, op, ins):
        return op.params["dimension"] == len(op.out_shapes[0]) - 1


_LABELS = itertools.count(1)


def _is_label_added(number, step):
    """Whether a positive constant is added to entries' numbers."""
    unmarked = number.origin in (Origin.PLACE, Origin.LABEL) and not number.label
    return unmarked and number.columns is None and (step.constant or 0) > 0


def _is_index_of_rows(value):
    return value.origin is not Origin.LABEL


def _is_wide_integer(op):
    """Whether a result can hold every row's number."""
    dtype = op.eqn.outvars[0].aval.dtype
    return jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize >= 4


def _place_columns(op, ins):
    columns, start = set(), 0
    for value, shape in zip(ins, op.in_shapes, strict=True):
        if value.origin is Origin.PLACE:
            own = range(shape[-1]) if value.columns is None else value.columns
            columns.update(start + column for column in own)
        start += shape[-1]
    return frozenset(columns)


def _has_side_effects(op):
    """Whether results depend on more than operands: references, callbacks."""
    if not op.eqn.outvars:
        return False
    has_references = any("Ref" in type(atom.aval).__name__ for atom in op.eqn.invars)
    is_foreign = "callback" in op.name or op.name in ("ffi_call", "pallas_call")
    is_effect = any(type(e).__name__ != "NamedAxisEffect" for e in op.eqn.effects)
    return is_effect or has_references or is_foreign


def _moved(rows, by):
    return rows and rows._replace(axis=rows.axis + by)


def _has_own_keys(op, ins):
    """Whether each row draws by its own key, which other kinds of keys do not keep."""
    return ins[0].rows is not None and "fry" in str(op.eqn.invars[0].aval.dtype)


def _drawn_again(op):
    return mixed(
        f"{op} of the backward pass draws again, by a row's place (draw outside of the "
        f"function with its own derivative)"
    )


def _because(value, reason):
    return value if value.origin is Origin.MIXED else mixed(reason)


_WEAKER = (Origin.ZERO, Origin.SHARED, Origin.ROW)


def _join(values, op):
    """What holds of a value that is one of these."""
    first = values[0]
    for other in values[1:]:
        if first == other or first.origin is Origin.MIXED:
            continue
        if other.origin is Origin.MIXED:
            first = other
            continue
        origins = {first.origin, other.origin}
        no_rows = first.rows is None and other.rows is None
        if no_rows and origins == {Origin.ZERO, Origin.SUM}:
            first = SUM
        elif origins <= set(_WEAKER) and (
            first.rows == other.rows or Origin.ZERO in origins
        ):
            stronger, weaker = sorted(
                (first, other), key=lambda v: _WEAKER.index(v.origin)
            )
            same_axis = (stronger.rows and stronger.rows.axis) == (
                weaker.rows and weaker.rows.axis
            )
            joined = weaker._replace(constant=None)
            first = joined if same_axis else mixed(f"{op} mixes rows")
        else:
            first = mixed(f"{op} mixes rows")
    return first


_CONTROL_FLOW = {
    "cond": _Walk._cond,
    "while": _Walk._while,
    "scan": _Walk._scan,
    "custom_linear_solve": _Walk._solve,
}
