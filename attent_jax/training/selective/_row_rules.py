"""What each primitive does to the rows of a batch: a rule says it keeps them apart."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn


class Rows(NamedTuple):
    """Where a value keeps the batch: `axis` has `block` entries a row, in turn."""

    axis: int
    block: int


def shape_of(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def is_same_in_all_rows(eqn: JaxprEqn, outs: list[Rows | None]) -> bool:
    """Whether rows made of no row's values are alike."""
    if eqn.primitive.name == "iota":
        return outs[0] is None or eqn.params["dimension"] != outs[0].axis
    return eqn.primitive.name == "broadcast_in_dim"


def is_kept(eqn: JaxprEqn, ins: list[Rows | None], outs: list[Rows | None]) -> bool:
    """Whether each row of the outputs comes from that row of the inputs alone."""
    rule = RULES.get(eqn.primitive.name)
    return rule is not None and all(outs) and rule(eqn, ins, outs)


# Rules: (operation, rows of its inputs, rows of its outputs) -> rows are kept apart.


def _aligned(eqn, ins, outs):
    return len({rows for rows in [*ins, *outs] if rows is not None}) == 1


def _reshape(eqn, ins, outs):
    is_transposed = eqn.primitive.name == "reshape" and eqn.params["dimensions"]
    before = math.prod(shape_of(eqn.invars[0])[: ins[0].axis])
    return not is_transposed and before == math.prod(
        shape_of(eqn.outvars[0])[: outs[0].axis]
    )


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
    axes = np.atleast_1d(axes) % len(shape_of(eqn.outvars[0]))
    return _aligned(eqn, ins, outs) and all(rows.axis not in axes for rows in outs)


def _slice(eqn, ins, outs):
    """All rows are taken: what the slice leaves of each does not matter."""
    return ins[0] == outs[0] and not any(ins[1:])


def _update_slice(eqn, ins, outs):
    return ins[0] == ins[1] == outs[0] and not any(ins[2:])


def _stack(eqn, ins, outs):
    axis = ins[0].axis + (ins[0].axis >= eqn.params["axis"]) if ins[0] else None
    return len(set(ins)) == 1 and outs[0] == ins[0]._replace(axis=axis)


def _unstack(eqn, ins, outs):
    axis = ins[0].axis - (ins[0].axis > eqn.params["axis"])
    apart = ins[0].axis != eqn.params["axis"]
    return apart and all(rows == ins[0]._replace(axis=axis) for rows in outs)


def _tile(eqn, ins, outs):
    return ins[0] == outs[0] and eqn.params["reps"][ins[0].axis] == 1


def _window(eqn, ins, outs):
    axis = outs[0].axis
    return (
        _aligned(eqn, ins, outs)
        and eqn.params["window_dimensions"][axis] == 1
        and eqn.params["window_strides"][axis] == 1
        and not any(eqn.params["padding"][axis])
    )


def _pad(eqn, ins, outs):
    return ins[0] == outs[0] and not any(eqn.params["padding_config"][ins[0].axis])


def _gather(eqn, ins, outs):
    numbers, (operand, indices), (out,) = eqn.params["dimension_numbers"], ins, outs
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    ndim = len(shape_of(eqn.outvars[0]))
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
    num_before = len(shape_of(eqn.invars[0])) - len(lhs_contract)
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


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


RANDOM = names("random_bits random_split random_fold_in")
"""Drawn for each place: a row keeps its own draw."""
_POINTWISE = names(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e "
    "bessel_i1e bitcast_convert_type cbrt ceil clamp clz complex conj "
    "convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp "
    "exp2 expm1 floor ge gt imag igamma igammac integer_pow is_finite le le_to "
    "lgamma log log1p logistic lt lt_to max min mul name ne neg nextafter not "
    "one_minus_square or pcast population_count pow pvary real reduce_precision rem "
    "round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor"
)
_ALONG_AN_AXIS = names(
    "cumsum cumprod cummax cummin cumlogsumexp concatenate rev sort split top_k"
)
_REDUCTIONS = names(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
    "argmax argmin"
)
_WINDOWS = names(
    "reduce_window reduce_window_max reduce_window_min reduce_window_sum "
    "select_and_gather_add"
)
RULES: dict[str, Callable[[Any, Any, Any], bool]] = {
    **dict.fromkeys(_POINTWISE, _aligned),
    **dict.fromkeys([*RANDOM, "random_wrap", "random_unwrap"], _aligned),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(_ALONG_AN_AXIS, _along_an_axis),
    **dict.fromkeys(["reshape", "squeeze", "expand_dims"], _reshape),
    **dict.fromkeys(["slice", "dynamic_slice"], _slice),
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "dynamic_update_slice": _update_slice,
    "pad": _pad,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "gather": _gather,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
