"""FLOPs of a program, as XLA counts them before it optimizes, loops in full."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of a call, on one device and without compiling.

    XLA counts the body of a loop once. Here the body of a `scan` counts as often as it
    runs; that of a `while_loop`, whose number of rounds is unknown, counts once.

    Args:
      function: traceable.
      arguments: arrays, or `jax.ShapeDtypeStruct`.
    """
    return _count(jax.make_jaxpr(function)(*arguments))


def _count(jaxpr: core.ClosedJaxpr) -> float:
    traced = jax.jit(core.jaxpr_as_fun(jaxpr)).trace(*jaxpr.in_avals)
    # Named, because constraints on shardings leave no device to take it from.
    program = traced.lower(lowering_platforms=(jax.default_backend(),))
    once = (program.cost_analysis() or {}).get("flops", 0.0)
    return once + _missed(jaxpr.jaxpr)


def _missed(jaxpr: core.Jaxpr) -> float:
    """FLOPs of the rounds of scans but the first."""
    missed = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            body, length = equation.params["jaxpr"], equation.params["length"]
            missed += (length - 1) * _count(body) + _missed(body.jaxpr)
        else:
            inner = [_missed(part) for part in _parts(equation)]
            is_branching = equation.primitive.name == "cond"
            missed += max(inner) if is_branching else sum(inner)
    return missed


def _parts(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs inside an equation."""
    kinds = (core.Jaxpr, core.ClosedJaxpr)
    values = list(equation.params.values())
    for leaf in jax.tree.leaves(values, is_leaf=lambda leaf: isinstance(leaf, kinds)):
        if isinstance(leaf, kinds):
            yield leaf.jaxpr if isinstance(leaf, core.ClosedJaxpr) else leaf
