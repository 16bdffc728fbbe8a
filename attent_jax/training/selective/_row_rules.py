"""How each primitive moves the rows of a batch.

A rule takes an operation and what is known of its inputs, at least one of which has
rows. It returns where the rows of the output are (one for each output, if they
differ), given that row i of the output comes from row i of the inputs alone, for every
number of rows; or None, if rows may meet. The caller compares the answer with the
shapes of both traces, so a rule need not check sizes.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from attent_jax.training.selective._index_rules import gather, scatter
from attent_jax.training.selective._row_values import (
    Operation,
    Rows,
    Value,
    names,
)

Rule = Callable[[Operation, Sequence[Value]], Rows | list[Rows | None] | None]


def _aligned(op, ins):
    """All inputs have their rows in the same place."""
    found, *others = {value.rows for value in ins if value.rows}
    return None if others else found


def _reshape(op, ins):
    if op.name == "reshape" and op.params["dimensions"] is not None:
        return None
    rows, shape, out_shape = ins[0].rows, op.in_shapes[0], op.out_shapes[0]
    twin_shape = op.twin.outvars[0].aval.shape
    before = math.prod(shape[: rows.axis]) * rows.outer
    changed = [
        axis
        for axis, (one, two) in enumerate(zip(out_shape, twin_shape, strict=True))
        if one != two
    ]
    if len(changed) != 1:
        return None
    (axis,) = changed
    if not math.prod(out_shape):  # nothing is in it
        return Rows(axis, out_shape[axis] // op.sizes[0])
    outer, rest = divmod(before, math.prod(out_shape[:axis]))
    if rest or not outer:
        return None
    return Rows(axis, out_shape[axis] // (outer * op.sizes[0]), outer)


def _broadcast(op, ins):
    axis = op.params["broadcast_dimensions"][ins[0].rows.axis]
    return ins[0].rows._replace(axis=int(axis))


def _transpose(op, ins):
    axis = tuple(op.params["permutation"]).index(ins[0].rows.axis)
    return ins[0].rows._replace(axis=axis)


def _reduce(op, ins):
    axes = op.params.get("axes", op.params.get("dimensions"))
    rows = _aligned(op, ins)
    if rows is None or rows.axis in axes:
        return None
    return rows._replace(axis=rows.axis - sum(axis < rows.axis for axis in axes))


_AXIS_NAMES = ("axis", "dimension", "dimensions", "reduction_dimension")


def _along_an_axis(op, ins):
    """Each line along one axis, or several, for itself."""
    given = (op.params.get(name) for name in _AXIS_NAMES)
    axes = next((axes for axes in given if axes is not None), -1)
    axes = np.atleast_1d(axes) % len(op.in_shapes[0])
    rows = _aligned(op, ins)
    return None if rows is None or rows.axis in axes else rows


def _trailing(num_axes: int) -> Rule:
    """Works on the last axes, as linear algebra does; others are a batch."""

    def rule(op, ins):
        rows = _aligned(op, ins)
        return rows if rows and rows.axis < len(op.in_shapes[0]) - num_axes else None

    return rule


def _triangular_solve(op, ins):
    matrix, sides = ins
    if matrix.rows or sides.rows is None:
        return _trailing(2)(op, ins)
    # One matrix for all rows: each of the other operand is solved for by itself.
    solved_for = len(op.in_shapes[1]) - (2 if op.params["left_side"] else 1)
    return None if sides.rows.axis == solved_for else sides.rows


def _fft(op, ins):
    rows = ins[0].rows
    num_axes = len(op.params["fft_lengths"])
    return rows if rows.axis < len(op.in_shapes[0]) - num_axes else None


def _concatenate(op, ins):
    rows = ins[0].rows
    axis = op.params["dimension"]
    if rows is None or any(value.rows is None for value in ins):
        return None
    if rows.axis != axis:
        return _aligned(op, ins)
    if any((v.rows.axis, v.rows.block) != (axis, rows.block) for v in ins):
        return None
    return rows._replace(outer=sum(value.rows.outer for value in ins))


def _part_of_rows(op, rows, start, stop, twin_start):
    """Entries [start, stop) of the rows' axis, if they are all rows a few times."""
    size, twin_size = (rows.block * num_rows for num_rows in op.sizes)
    whole = start % size == 0 and stop % size == 0
    if not whole or start // size * twin_size != twin_start:
        return None
    return rows._replace(outer=(stop - start) // size)


def _slice(op, ins):
    rows = ins[0].rows
    strides = op.params["strides"]
    if strides is not None and strides[rows.axis] != 1:
        return None
    start, stop = (
        op.params[name][rows.axis] for name in ("start_indices", "limit_indices")
    )
    twin_start = op.twin.params["start_indices"][rows.axis]
    return _part_of_rows(op, rows, start, stop, twin_start)


def _split(op, ins):
    rows, sizes = ins[0].rows, op.params["sizes"]
    if rows.axis != op.params["axis"]:
        return rows
    ends = np.cumsum([0, *sizes])
    twin_ends = np.cumsum([0, *op.twin.params["sizes"]])
    return [
        _part_of_rows(op, rows, int(start), int(stop), int(twin_start))
        for start, stop, twin_start in zip(
            ends[:-1], ends[1:], twin_ends[:-1], strict=True
        )
    ]


def _dynamic_slice(op, ins):
    """All rows are taken, as the shapes say: what is left of each does not matter."""
    return None if any(value.rows for value in ins[1:]) else ins[0].rows


def _update_slice(op, ins):
    return None if any(value.rows for value in ins[2:]) else _both(op, ins[:2])


def _both(op, ins):
    """Aligned, and no input is without rows."""
    return _aligned(op, ins) if all(value.rows for value in ins) else None


def _pad(op, ins):
    rows = ins[0].rows
    if rows is None or ins[1].rows or any(op.params["padding_config"][rows.axis]):
        return None
    return rows


def _stack(op, ins):
    rows = _both(op, ins)
    return rows and rows._replace(axis=rows.axis + (rows.axis >= op.params["axis"]))


def _unstack(op, ins):
    rows, axis = ins[0].rows, op.params["axis"]
    return (
        None
        if rows.axis == axis
        else rows._replace(axis=rows.axis - (rows.axis > axis))
    )


def _tile(op, ins):
    rows = ins[0].rows
    return rows._replace(outer=rows.outer * op.params["reps"][rows.axis])


def _window(op, ins):
    rows = _aligned(op, ins)
    if rows is None:
        return None
    axis = rows.axis
    ones = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    moves = any((op.params.get(name) or {axis: 1})[axis] != 1 for name in ones)
    return None if moves or any(op.params["padding"][axis]) else rows


def _dot_general(op, ins):
    contract, (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    lhs, rhs = (value.rows for value in ins)
    if lhs is not None and rhs is not None:
        paired = (lhs.axis, rhs.axis) in zip(lhs_batch, rhs_batch, strict=True)
        if not paired or lhs._replace(axis=0) != rhs._replace(axis=0):
            return None
        return lhs._replace(axis=list(lhs_batch).index(lhs.axis))
    if lhs is not None:
        return _free(lhs, {*contract[0], *lhs_batch}, len(lhs_batch))
    num_before = len(op.in_shapes[0]) - len(contract[0])
    return _free(rhs, {*contract[1], *rhs_batch}, num_before)


def _free(rows, taken, num_before):
    """Where a dot product puts an operand's free axis, after `num_before` others."""
    if rows.axis in taken:
        return None
    axis = num_before + sum(axis not in taken for axis in range(rows.axis))
    return rows._replace(axis=axis)


def _ragged_dot(op, ins):
    """Rows are the first batch axis of both operands and of the groups' sizes."""
    numbers = op.params["ragged_dot_dimension_numbers"]
    (contract, _), (lhs_batch, rhs_batch) = numbers.dot_dimension_numbers
    lhs, rhs, sizes = (value.rows for value in ins[:3])
    if lhs is None or rhs is None or sizes != Rows(0) or not lhs_batch:
        return None
    if lhs != Rows(lhs_batch[0]) or rhs != Rows(rhs_batch[0]):
        return None
    # Groups of what is summed over are the first axis of the output.
    return Rows(int(numbers.lhs_ragged_dimensions[0] in contract))


def _convolution(op, ins):
    numbers, rows = op.params["dimension_numbers"], ins[0].rows
    if rows is None or ins[1].rows or rows.axis != numbers.lhs_spec[0]:
        return None
    if op.params["batch_group_count"] != 1:
        return None
    return rows._replace(axis=numbers.out_spec[0])


RANDOM = names("random_bits random_split random_fold_in random_gamma")
"""Drawn for each place: a row keeps the draw that it got in the forward pass."""
POINTWISE = names(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e "
    "bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy "
    "copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge "
    "ge_to gt gt_to igamma igamma_grad_a igammac imag integer_pow is_finite le le_to "
    "lgamma log log1p logistic lt lt_to max min mul mulhi name ne neg nextafter not "
    "one_minus_square or pcast polygamma population_count pow pvary random_clone "
    "random_gamma_grad random_seed real reduce_precision regularized_incomplete_beta "
    "rem round rsqrt select_n shard_constraint sharding_constraint shift_left "
    "shift_right_arithmetic shift_right_logical sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor zeta"
)
_ALONG_AN_AXIS = names("cumsum cumprod cummax cummin cumlogsumexp rev sort")
_REDUCTIONS = names(
    "reduce reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or "
    "reduce_xor argmax argmin"
)
_WINDOWS = names(
    "reduce_window reduce_window_max reduce_window_min reduce_window_sum "
    "select_and_gather_add select_and_scatter_add cumred_reduce_window_impl"
)
_LINEAR_ALGEBRA = names(
    "cholesky eig eigh geqrf householder_product lu qr schur svd tridiagonal"
)
_SCATTERS = names(
    "scatter scatter-add scatter_add scatter-mul scatter_mul scatter-min scatter_min "
    "scatter-max scatter_max scatter-sub scatter_sub"
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, _aligned),
    **dict.fromkeys([*RANDOM, "random_wrap", "random_unwrap"], _aligned),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(_ALONG_AN_AXIS, _along_an_axis),
    **dict.fromkeys(_LINEAR_ALGEBRA, _trailing(2)),
    **dict.fromkeys(_SCATTERS, scatter),
    **dict.fromkeys(["reshape", "squeeze", "expand_dims"], _reshape),
    "approx_top_k": _along_an_axis,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _update_slice,
    "fft": _fft,
    "gather": gather,
    "lu_pivots_to_permutation": _trailing(1),
    "pad": _pad,
    "ragged_dot_general": _ragged_dot,
    "slice": _slice,
    "split": _split,
    "stack": _stack,
    "tile": _tile,
    "top_k": _along_an_axis,
    "transpose": _transpose,
    "triangular_solve": _triangular_solve,
    "unstack": _unstack,
}
