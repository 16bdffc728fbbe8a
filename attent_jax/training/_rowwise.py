"""Proof that a program keeps the rows of its batch apart.

A program traced twice, at two batch sizes, shows by what changes between the two where
each of its values keeps the batch. What is left to check is that no operation moves
something from one row to another. The rules below say so for each primitive; a
primitive without a rule may mix rows, and proves nothing.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal


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


def check_rowwise(
    program: ClosedJaxpr, other: ClosedJaxpr, sizes: tuple[int, int]
) -> None:
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
            if any(outs) and not (
                eqn.primitive.name in _RANDOM or _is_same_in_all_rows(eqn, outs)
            ):
                raise NotRowwise(
                    f"{_describe(eqn)} tells rows apart by their place (index with "
                    f"take_along_axis in place of arange)"
                )
        elif not _is_kept(eqn, ins, outs):
            has_rule = eqn.primitive.name in _RULES
            raise NotRowwise(
                f"{_describe(eqn)} mixes rows (as batch norm does; use layer norm)"
                if has_rule
                else f"{_describe(eqn)} may mix rows: there is no rule for it"
            )


def check_placeless(
    program: ClosedJaxpr, other: ClosedJaxpr, sizes: tuple[int, int]
) -> None:
    """Refuse a program that makes something new by a row's place: a draw, an index.

    Arguments and errors as for `check_rowwise`.
    """
    for eqn, ins, outs in _walk(program, other, sizes, is_backward=True):
        is_new = any(outs) and not any(ins)
        if is_new and not _is_same_in_all_rows(eqn, outs):
            raise NotRowwise(
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
        raise NotRowwise("the program itself depends on the number of rows")
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
            raise NotRowwise(f"{_describe(eqn)} depends on the number of rows")
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
        raise NotRowwise(
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


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _programs_in(eqn: JaxprEqn) -> list[Any]:
    return [found for value in eqn.params.values() for found in _programs_of(value)]


def _programs_of(value: Any) -> list[Any]:
    items = value if isinstance(value, tuple | list) else [value]
    return [item for item in items if hasattr(getattr(item, "jaxpr", item), "eqns")]


def _describe(eqn: JaxprEqn) -> str:
    results = ", ".join(str(var.aval) for var in eqn.outvars)
    where = str(eqn.source_info.name_stack)
    return f"`{eqn.primitive.name}` -> {results}" + (f" in {where}" if where else "")


def _is_same_in_all_rows(eqn: JaxprEqn, outs: list[Rows | None]) -> bool:
    """Whether rows made of no row's values are alike."""
    if eqn.primitive.name == "iota":
        return outs[0] is None or eqn.params["dimension"] != outs[0].axis
    return eqn.primitive.name == "broadcast_in_dim"


def _is_kept(eqn: JaxprEqn, ins: list[Rows | None], outs: list[Rows | None]) -> bool:
    """Whether each row of the outputs comes from that row of the inputs alone."""
    rule = _RULES.get(eqn.primitive.name)
    return rule is not None and all(outs) and rule(eqn, ins, outs)


def _check_steps(eqn: JaxprEqn, ins: list[Rows | None]) -> None:
    """Refuse a scan that takes its steps along the rows."""
    (body,) = _programs_in(eqn)
    for outer, inner, rows in zip(eqn.invars, body.jaxpr.invars, ins, strict=True):
        is_stepped = len(_shape(inner)) < len(_shape(outer))
        if is_stepped and rows is not None and rows.axis == 0:
            raise NotRowwise(f"{_describe(eqn)} steps over the rows")


# Rules: (operation, rows of its inputs, rows of its outputs) -> rows are kept apart.


def _aligned(eqn, ins, outs):
    return len({rows for rows in [*ins, *outs] if rows is not None}) == 1


def _reshape(eqn, ins, outs):
    is_transposed = eqn.primitive.name == "reshape" and eqn.params["dimensions"]
    before = math.prod(_shape(eqn.invars[0])[: ins[0].axis])
    return not is_transposed and before == math.prod(
        _shape(eqn.outvars[0])[: outs[0].axis]
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
    axes = np.atleast_1d(axes) % len(_shape(eqn.outvars[0]))
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
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e "
    "bessel_i1e bitcast_convert_type cbrt ceil clamp clz complex conj "
    "convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp "
    "exp2 expm1 floor ge gt imag igamma igammac integer_pow is_finite le le_to "
    "lgamma log log1p logistic lt lt_to max min mul name ne neg nextafter not "
    "one_minus_square or pcast population_count pow pvary real reduce_precision rem "
    "round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor"
)
_ALONG_AN_AXIS = _names(
    "cumsum cumprod cummax cummin cumlogsumexp concatenate rev sort split top_k"
)
_REDUCTIONS = _names(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
    "argmax argmin"
)
_WINDOWS = _names(
    "reduce_window reduce_window_max reduce_window_min reduce_window_sum "
    "select_and_gather_add"
)
_STEPS = ("length", "reverse")  # of a scan
_SHAPES = _names("shape new_sizes limit_indices slice_sizes sizes")
"""Parameters that say how large something is, on the rows' axis too."""
_RULES: dict[str, Callable[[Any, Any, Any], bool]] = {
    **dict.fromkeys(_POINTWISE, _aligned),
    **dict.fromkeys([*_RANDOM, "random_wrap", "random_unwrap"], _aligned),
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
