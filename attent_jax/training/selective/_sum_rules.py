"""Sums over rows in a backward pass: where they arise, and what keeps them sums.

The gradient of shared parameters is a sum of one term for each row. It stays one
through what is linear in it. Anything else done to it, such as a division by the number
of rows or a product of two sums, gives what is no sum of terms from one row each.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from attent_jax.training.selective._index_rules import updates_follow
from attent_jax.training.selective._row_values import Operation, Origin, Value, names


def is_sum_over_rows(op: Operation, ins: Sequence[Value]) -> bool:
    """Whether values with rows become a sum of one term for each row."""
    rule = _SUMS.get(op.name)
    return rule is not None and rule(op, ins)


def is_linear_in_sums(op: Operation, ins: Sequence[Value]) -> bool:
    """Whether sums over rows, none of its inputs having rows, stay sums."""
    is_sum = [value.origin is Origin.SUM for value in ins]
    dtypes = [getattr(var.aval, "dtype", bool) for var in op.eqn.outvars]
    if not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        return False
    if op.name in _BILINEAR:
        return sum(is_sum) == 1
    if op.name in _JOINTLY_LINEAR:
        linear = range(len(ins))[_JOINTLY_LINEAR[op.name]]
        return all(
            value.origin in (Origin.SUM, Origin.ZERO)
            if position in linear
            else value.origin is not Origin.SUM
            for position, value in enumerate(ins)
        )
    return False


def _reduce_sum(op, ins):
    return ins[0].rows.axis in op.params["axes"]


def _dot_general(op, ins):
    contract, _ = op.params["dimension_numbers"]
    lhs, rhs = (value.rows for value in ins)
    if lhs is None or rhs is None:
        return False
    paired = (lhs.axis, rhs.axis) in zip(*contract, strict=True)
    return paired and lhs._replace(axis=0) == rhs._replace(axis=0)


def _convolution(op, ins):
    """Rows as the features of both operands: the gradient of a kernel."""
    numbers = op.params["dimension_numbers"]
    lhs, rhs = (value.rows for value in ins)
    if lhs is None or rhs is None or op.params["feature_group_count"] != 1:
        return False
    features = lhs.axis == numbers.lhs_spec[1] and rhs.axis == numbers.rhs_spec[1]
    return features and lhs._replace(axis=0) == rhs._replace(axis=0)


def _scatter_add(op, ins):
    """Rows added up by their indices: the gradient of an embedding."""
    operand, indices, _ = ins
    return (
        operand.origin in (Origin.ZERO, Origin.SUM)
        and operand.rows is None
        and indices.origin is not Origin.PLACE
        and updates_follow(op, ins)
    )


_SUMS: dict[str, Callable[[Operation, Sequence[Value]], bool]] = {
    "reduce_sum": _reduce_sum,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "scatter-add": _scatter_add,
    "scatter_add": _scatter_add,
}
_BILINEAR = frozenset(["mul", "dot_general", "conv_general_dilated"])
_ALL, _FIRST, _SECOND = slice(None), slice(0, 1), slice(1, 2)
_JOINTLY_LINEAR = {
    **dict.fromkeys(
        names("add add_any sub concatenate complex stack pad optimization_barrier"),
        _ALL,
    ),
    **dict.fromkeys(
        names(
            "broadcast_in_dim conj convert_element_type copy copy_p cumsum div "
            "dynamic_slice expand_dims fft gather imag name neg pcast psum "
            "psum_invariant pvary real reduce_precision reduce_sum reduce_window_sum "
            "reshape rev sharding_constraint slice split squeeze stop_gradient tile "
            "transpose unstack"
        ),
        _FIRST,
    ),
    "dynamic_update_slice": slice(0, 2),
    "scatter-add": slice(0, 3, 2),
    "scatter_add": slice(0, 3, 2),
    "scatter": slice(0, 3, 2),
    "select_n": slice(1, None),
    "triangular_solve": _SECOND,
}
"""Which operands an operation is linear in, taken together; the others are fixed."""
