"""Proof that a program keeps the rows of its batch apart.

A program traced twice, at two batch sizes, shows by what changes between the two where
each of its values keeps the batch. What is left to check is that no operation moves
something from one row to another. The rules below say so for each primitive; a
primitive without a rule may mix rows, and proves nothing.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal


class Rows(NamedTuple):
    """Where a value keeps the batch: `axis` has `block` entries a row, in turn."""

    axis: int
    block: int


class NotRowwise(ValueError):
    """Rows meet, or may meet; the message says where."""


def rows_of(value: Any, other: Any, sizes: tuple[int, int], name: str) -> Rows | None:
    """Where `value` keeps the rows, by its type in both traces; None: nowhere.

    Args:
      value: has a shape and dtype; of the trace with sizes[0] rows.
      other: the same value in the trace with sizes[1] rows.
      sizes: the two numbers of rows.
      name: of the value, for the message.

    Raises:
      NotRowwise: if more than one axis follows the batch, or not in proportion.
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
    raise NotRowwise(
        f"{name} has shape {shapes[0]} for {sizes[0]} rows and {shapes[1]} for "
        f"{sizes[1]}, so it is not one entry, or block of entries, a row"
    )


def check_rowwise(program: Jaxpr, other: Jaxpr, sizes: tuple[int, int]) -> None:
    """Refuse a program in which rows may meet.

    Args:
      program: traced with sizes[0] rows.
      other: the same function, traced with sizes[1] rows.
      sizes: the two numbers of rows.

    Raises:
      NotRowwise: naming the operation, its result and the module it is in.
    """
    for eqn, ins, outs in _walk(program, other, sizes):
        if not any(ins):
            if any(outs) and not _is_same_in_all_rows(eqn, outs):
                raise NotRowwise(
                    f"{_describe(eqn)} tells rows apart by their place (index with "
                    f"take_along_axis in place of arange)"
                )
        elif not _is_kept(eqn, ins, outs):
            raise NotRowwise(
                f"{_describe(eqn)} mixes rows, or may (as batch norm does; use layer "
                f"norm)"
            )


def check_placeless(program: Jaxpr, other: Jaxpr, sizes: tuple[int, int]) -> None:
    """Refuse a program that makes something new by a row's place: a draw, an index.

    Arguments and errors as for `check_rowwise`.
    """
    for eqn, ins, outs in _walk(program, other, sizes):
        is_new = any(outs) and not any(ins)
        if is_new and eqn.primitive.name in (_RANDOM | {"iota"}):
            raise NotRowwise(
                f"{_describe(eqn)} of the backward pass depends on a row's place "
                f"(dropout inside jax.checkpoint draws its masks a second time; draw "
                f"them outside, or keep them by a checkpoint policy)"
            )


def _walk(program: Jaxpr, other: Jaxpr, sizes: tuple[int, int]):
    """Each operation that calls no other, and where it keeps rows: inputs, outputs."""
    if len(program.eqns) != len(other.eqns):
        raise NotRowwise("the program itself depends on the number of rows")
    for eqn, twin in zip(program.eqns, other.eqns, strict=True):
        is_pointwise = eqn.primitive.name in _POINTWISE
        if eqn.primitive is not twin.primitive or (
            is_pointwise and eqn.params != twin.params
        ):
            raise NotRowwise(f"{_describe(eqn)} depends on the number of rows")
        ins, outs = (
            [
                _rows_of_atom(one, two, sizes, eqn)
                for one, two in zip(atoms, twins, strict=True)
            ]
            for atoms, twins in ((eqn.invars, twin.invars), (eqn.outvars, twin.outvars))
        )
        inner = list(zip(_jaxprs_in(eqn), _jaxprs_in(twin), strict=True))
        if inner and eqn.primitive.name in _CALLS:
            if eqn.primitive.name == "scan" and _steps_over_rows(eqn, twin, ins):
                raise NotRowwise(f"{_describe(eqn)} steps over the rows")
            for body, body_twin in inner:
                yield from _walk(body, body_twin, sizes)
        else:
            yield eqn, ins, outs


def _rows_of_atom(one, two, sizes, eqn) -> Rows | None:
    if isinstance(one, Literal) and isinstance(two, Literal):
        if not np.array_equal(one.val, two.val, equal_nan=True):
            raise NotRowwise(
                f"{_describe(eqn)} has the constant {one.val} for {sizes[0]} rows and "
                f"{two.val} for {sizes[1]}: it depends on the number of rows"
            )
        return None
    return rows_of(one.aval, two.aval, sizes, _describe(eqn))


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _jaxprs_in(eqn: JaxprEqn) -> list[Jaxpr]:
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found


def _describe(eqn: JaxprEqn) -> str:
    results = ", ".join(str(var.aval) for var in eqn.outvars)
    where = str(eqn.source_info.name_stack)
    return f"`{eqn.primitive.name}` -> {results}" + (f" in {where}" if where else "")


def _is_same_in_all_rows(eqn: JaxprEqn, outs: list[Rows | None]) -> bool:
    """Whether rows made of no row's values are alike, or random."""
    name = eqn.primitive.name
    if name == "iota":
        return outs[0] is None or eqn.params["dimension"] != outs[0].axis
    return name == "broadcast_in_dim" or name in _RANDOM


def _is_kept(eqn: JaxprEqn, ins: list[Rows | None], outs: list[Rows | None]) -> bool:
    """Whether each row of the outputs comes from that row of the inputs alone."""
    if eqn.primitive.name == "optimization_barrier":
        return ins == outs
    rule = _RULES.get(eqn.primitive.name)
    return rule is not None and all(outs) and rule(eqn, ins, outs)


def _steps_over_rows(eqn: JaxprEqn, twin: JaxprEqn, ins: list[Rows | None]) -> bool:
    """Whether a scan takes its steps along the rows, or one for each of them."""
    (body,) = _jaxprs_in(eqn)
    is_stepped = [
        len(_shape(inner)) < len(_shape(outer))
        for outer, inner in zip(eqn.invars, body.invars, strict=True)
    ]
    return eqn.params["length"] != twin.params["length"] or any(
        stepped and rows is not None and rows.axis == 0
        for stepped, rows in zip(is_stepped, ins, strict=True)
    )


# Rules: (operation, rows of its inputs, rows of its outputs) -> rows are kept apart.


def _aligned(eqn, ins, outs):
    return len({rows for rows in [*ins, *outs] if rows is not None}) == 1


def _reshape(eqn, ins, outs):
    before = math.prod(_shape(eqn.invars[0])[: ins[0].axis])
    return before == math.prod(_shape(eqn.outvars[0])[: outs[0].axis])


def _broadcast(eqn, ins, outs):
    axis = eqn.params["broadcast_dimensions"][ins[0].axis]
    return outs[0] == ins[0]._replace(axis=axis)


def _transpose(eqn, ins, outs):
    axis = eqn.params["permutation"].index(ins[0].axis)
    return outs[0] == ins[0]._replace(axis=axis)


def _reduce(eqn, ins, outs):
    axis = ins[0].axis - sum(reduced < ins[0].axis for reduced in eqn.params["axes"])
    kept = ins[0].axis not in eqn.params["axes"]
    return kept and all(rows == ins[0]._replace(axis=axis) for rows in outs)


def _along_an_axis(eqn, ins, outs):
    """Each line along one axis, or several, for itself."""
    given = (eqn.params.get(name) for name in ("axis", "dimension", "dimensions"))
    axes = next((axes for axes in given if axes is not None), -1)
    axes = np.atleast_1d(axes) % len(_shape(eqn.outvars[0]))
    return _aligned(eqn, ins, outs) and all(rows.axis not in axes for rows in outs)


def _slice(eqn, ins, outs):
    """All rows are taken: what else the slices leave of them does not matter."""
    return (
        ins[0] == outs[0]
        and not any(ins[1:])
        and eqn.params.get("strides") in (None, (1,) * len(_shape(eqn.invars[0])))
    )


def _pad(eqn, ins, outs):
    return ins[0] == outs[0] and not any(eqn.params["padding_config"][ins[0].axis])


def _gather(eqn, ins, outs):
    numbers, (operand, indices), (out,) = eqn.params["dimension_numbers"], ins, outs
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    ndim = len(_shape(eqn.outvars[0]))
    if indices is None:  # the same entries of every row
        axis = operand.axis
        if axis in dropped or axis in numbers.start_index_map:
            return False
        kept = sum(other not in dropped for other in range(axis))
        return out == operand._replace(axis=numbers.offset_dims[kept])
    if operand is not None and (operand.axis, indices.axis, operand.block) not in {
        (axis, indices_axis, indices.block)
        for axis, indices_axis in zip(
            numbers.operand_batching_dims,
            numbers.start_indices_batching_dims,
            strict=True,
        )
    }:
        return False
    of_indices = [axis for axis in range(ndim) if axis not in numbers.offset_dims]
    return indices.axis < len(of_indices) and out == indices._replace(
        axis=of_indices[indices.axis]
    )


def _dot_general(eqn, ins, outs):
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = eqn.params[
        "dimension_numbers"
    ]
    lhs, rhs = ins
    if lhs is not None and rhs is not None:
        return (lhs.axis, rhs.axis) in zip(lhs_batch, rhs_batch, strict=True) and (
            outs[0] == lhs._replace(axis=list(lhs_batch).index(lhs.axis))
        )
    if lhs is not None:
        return outs[0] == _free(lhs, {*lhs_contract, *lhs_batch}, len(lhs_batch))
    num_before = len(_shape(eqn.invars[0])) - len(lhs_contract)
    return outs[0] == _free(rhs, {*rhs_contract, *rhs_batch}, num_before)


def _free(rows, taken, num_before):
    """Where a dot product puts an operand's free axis, after `num_before` others."""
    if rows.axis in taken:
        return None
    axis = num_before + sum(axis not in taken for axis in range(rows.axis))
    return rows._replace(axis=axis)


def _convolution(eqn, ins, outs):
    numbers = eqn.params["dimension_numbers"]
    return (
        ins[1] is None
        and ins[0].axis == numbers.lhs_spec[0]
        and outs[0] == ins[0]._replace(axis=numbers.out_spec[0])
        and eqn.params["batch_group_count"] == 1
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CALLS = _names(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr scan while cond"
)
_RANDOM = _names("random_bits random_split random_fold_in")
"""Drawn for each place: a row keeps its own draw."""
_POINTWISE = _names(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e "
    "bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy "
    "copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag "
    "integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg "
    "nextafter not one_minus_square or population_count pow real reduce_precision rem "
    "round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign "
    "sin sinh sqrt square stop_gradient sub tan tanh xor"
)
_ALONG_AN_AXIS = _names(
    "cumsum cumprod cummax cummin cumlogsumexp concatenate rev sort split top_k"
)
_REDUCTIONS = _names(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
    "argmax argmin"
)
_RULES: dict[str, Callable[[Any, Any, Any], bool]] = {
    **dict.fromkeys(_POINTWISE, _aligned),
    **dict.fromkeys([*_RANDOM, "random_wrap", "random_unwrap"], _aligned),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_ALONG_AN_AXIS, _along_an_axis),
    **dict.fromkeys(["reshape", "squeeze", "expand_dims"], _reshape),
    **dict.fromkeys(["slice", "dynamic_slice"], _slice),
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "pad": _pad,
    "gather": _gather,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
