"""What holds of the rows' numbers: they may index rows, and mark entries of a row.

`h[jnp.arange(len(h)), ids]` reads row i at place i. The numbers of selected rows are
made again from 0, so nothing but an index may depend on them. The derivative of a
scatter numbers all updates, to find the last one written to an entry: these labels may
only be compared with each other, within a row.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp

from attent_jax.training.selective._row_rules import RANDOM
from attent_jax.training.selective._row_values import (
    Operation,
    Origin,
    Rows,
    Value,
    mixed,
    names,
)

PLACE_REMEDY = (
    "depends on a row's place in the batch (give each row what it needs with the batch)"
)
_KEEPS_PLACE = names(
    "broadcast_in_dim convert_element_type copy copy_p expand_dims name pvary reshape "
    "sharding_constraint squeeze stop_gradient transpose"
)
_INDEXES = names(
    "gather scatter scatter-add scatter_add scatter-mul scatter_mul scatter-min "
    "scatter_min scatter-max scatter_max"
)
_LABELS = itertools.count(1)


def numbering(op: Operation, rows: Rows) -> Value:
    """What an `iota` along the rows makes."""
    if _is_wide_integer(op) and rows.block == 1:
        return Value(Origin.PLACE, rows)
    if _is_wide_integer(op) and len(op.out_shapes[0]) == 1:
        return Value(Origin.LABEL, rows)
    return mixed(f"{op} {PLACE_REMEDY}")


def from_places(
    op: Operation, ins: Sequence[Value], kept: list[Value], is_backward: bool
) -> list[Value]:
    """An index that holds the row's number, on its way to a gather or scatter.

    Args:
      op: one of its inputs is a place.
      ins: what is known of the inputs.
      kept: what the rule of the primitive says of the results.
      is_backward: whether this is a backward pass.
    """
    first, result = ins[0], kept[0]
    keeps = op.name in _KEEPS_PLACE and _is_wide_integer(op) and first.columns is None
    if keeps and result.rows is not None and result.rows == Rows(result.rows.axis):
        return [Value(Origin.PLACE, result.rows)]
    if op.name == "lt" and [v.origin for v in ins] == [Origin.PLACE, Origin.ZERO]:
        return [Value(Origin.ZERO, first.rows)]  # no place is negative
    if op.name == "add" and _is_label_added(first, ins[1]):
        return from_labels(op, ins, kept)
    is_joined = op.name == "concatenate" and result.origin is not Origin.MIXED
    if is_joined and _is_along_last_axis(op):
        return [Value(Origin.PLACE, result.rows, _place_columns(op, ins))]
    in_indices = len(ins) > 1 and ins[1].origin is Origin.PLACE
    alone = sum(value.origin is Origin.PLACE for value in ins) == 1
    if op.name in _INDEXES and in_indices and alone and ins[0].rows:
        return kept
    if op.name in RANDOM and not is_backward:
        return kept
    return _depends_on_place(op, kept)


def from_labels(op: Operation, ins: Sequence[Value], kept: list[Value]) -> list[Value]:
    """Numbers of entries, by which jax finds the last of several scattered ones."""
    first, *others = ins
    result = kept[0]
    if result.origin is not Origin.MIXED:
        label = result._replace(origin=Origin.LABEL, label=first.label)
        if op.name == "reshape":
            return [label]
        if op.name == "add" and _is_label_added(first, others[0]):
            return [label._replace(label=next(_LABELS))]
        # What the default fills in is no label.
        is_filled = op.params.get("fill_value") is not None
        reads = op.name == "gather" and first.label and not is_filled
        if reads and others[0].origin is not Origin.LABEL:
            return [label]
        if op.name == "scatter" and others[0].origin is not Origin.LABEL:
            label = label._replace(label=others[1].label)
            if first.origin is Origin.ZERO and label.label:
                return [label]
        labels = {v.label for v in ins if v.origin is not Origin.ZERO}
        if op.name == "eq" and len(labels) == 1 and None not in labels:
            return [result]
    return _depends_on_place(op, kept)


def _depends_on_place(op, kept):
    if any(value.origin is Origin.MIXED for value in kept):
        return kept
    return op.all_results(mixed(f"{op} {PLACE_REMEDY}"))


def _is_label_added(number, step):
    """Whether a positive constant is added to entries' numbers."""
    unmarked = number.origin in (Origin.PLACE, Origin.LABEL) and not number.label
    return unmarked and number.columns is None and (step.constant or 0) > 0


def _is_wide_integer(op):
    """Whether a result can hold every row's number."""
    dtype = op.eqn.outvars[0].aval.dtype
    return jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize >= 4


def _is_along_last_axis(op):
    return op.params["dimension"] == len(op.out_shapes[0]) - 1


def _place_columns(op, ins):
    columns, start = set(), 0
    for value, shape in zip(ins, op.in_shapes, strict=True):
        if value.origin is Origin.PLACE:
            own = range(shape[-1]) if value.columns is None else value.columns
            columns.update(start + column for column in own)
        start += shape[-1]
    return frozenset(columns)
