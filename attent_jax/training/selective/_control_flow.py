"""What holds of the results of operations that run other programs.

Each function takes `run`, which gives what is known of a program's outputs, a
control-flow operation, and what is known of its inputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

from attent_jax.training.selective._compare_programs import programs_in, scan_parts
from attent_jax.training.selective._row_values import (
    SUM,
    Operation,
    Origin,
    Value,
    mixed,
)

Run = Callable[[Any, Any, Sequence[Value]], list[Value]]


def call(run: Run, op: Operation, ins: Sequence[Value]) -> list[Value]:
    (body,), (twin,) = (
        [found for value in eqn.params.values() for found in programs_in(value)]
        for eqn in (op.eqn, op.twin)
    )
    return run(body, twin, ins)


def _cond(run, op, ins):
    index, *operands = ins
    if index.origin not in (Origin.SHARED, Origin.ZERO):
        return op.all_results(_because(index, f"{op} chooses by several rows"))
    branches = zip(op.params["branches"], op.twin.params["branches"], strict=True)
    results = [run(*branch, operands) for branch in branches]
    return [_join(values, op) for values in zip(*results, strict=True)]


def _while(run, op, ins):
    in_cond, in_body = (op.params[f"{name}_nconsts"] for name in ("cond", "body"))
    carry = ins[in_cond + in_body :]
    body, twin_body, cond, twin_cond = (
        params[f"{name}_jaxpr"]
        for name in ("body", "cond")
        for params in (op.params, op.twin.params)
    )
    consts = ins[in_cond : in_cond + in_body]
    carry = _settle(op, carry, lambda c: run(body, twin_body, [*consts, *c]))
    (goes_on,) = run(cond, twin_cond, [*ins[:in_cond], *carry])
    if goes_on.origin not in (Origin.SHARED, Origin.ZERO):
        reason = f"{op} runs for as long as several rows say"
        return op.all_results(_because(goes_on, reason))
    return carry


def _scan(run, op, ins):
    body, twin = op.params["jaxpr"], op.twin.params["jaxpr"]
    parts = scan_parts(op.eqn)
    if parts != scan_parts(op.twin):
        return op.all_results(mixed(f"{op} depends on the number of rows"))
    inputs = list(ins)
    for position in parts.steps:
        value = ins[position]
        if value.rows is not None and value.rows.axis == 0:
            inputs[position] = mixed(f"{op} steps over the rows")
        else:
            inputs[position] = value._replace(rows=_moved(value.rows, -1))

    def run_body(carry):
        for position, value in zip(parts.carry, carry, strict=True):
            inputs[position] = value
        return run(body, twin, inputs)

    def step(carry):
        outs = run_body(carry)
        return [outs[position] for position in parts.carry_out]

    carry = [ins[position] for position in parts.carry]
    outs = run_body(_settle(op, carry, step))
    for position in parts.stacked:
        outs[position] = outs[position]._replace(rows=_moved(outs[position].rows, 1))
    return outs


def _solve(run, op, ins):
    lengths = op.params["const_lengths"]
    before = lengths.matvec + lengths.vecmat
    consts = ins[before : before + lengths.solve]
    rest = ins[sum(lengths) :]
    solve, twin = (params["jaxprs"].solve for params in (op.params, op.twin.params))
    return run(solve, twin, [*consts, *rest])


CONTROL_FLOW: dict[str, Callable[[Run, Operation, Sequence[Value]], list[Value]]] = {
    "cond": _cond,
    "while": _while,
    "scan": _scan,
    "custom_linear_solve": _solve,
}


def _settle(op, carry, step):
    """What holds of a loop's carry before and after every step."""
    while True:
        after = step(carry)
        joined = [_join(pair, op) for pair in zip(carry, after, strict=True)]
        if joined == carry:
            return carry
        carry = joined


def _moved(rows, by):
    return rows and rows._replace(axis=rows.axis + by)


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
        elif origins <= set(_WEAKER):
            first = _weaker(first, other, op)
        else:
            first = mixed(f"{op} mixes rows")
    return first


def _weaker(one, other, op):
    """What holds of both; of uniform values whatever their layout is."""
    stronger, weaker = sorted(
        (one, other), key=lambda v: (_WEAKER.index(v.origin), not v.is_uniform)
    )
    same_axis = (one.rows and one.rows.axis) == (other.rows and other.rows.axis)
    if not same_axis or (one.rows != other.rows and not stronger.is_uniform):
        return mixed(f"{op} mixes rows")
    rows = one.rows if weaker.is_uniform else weaker.rows
    return weaker._replace(constant=None, uniform=weaker.is_uniform, rows=rows)
