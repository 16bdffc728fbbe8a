"""Arithmetic in less than float64 inside a float64 program, found in its jaxpr."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp


def warn_if_narrowed(function: Callable[..., Any], *arguments: Any) -> None:
    """Warn once for each function that rounds float64 to less on its way.

    A layer may do so although all its parameters are float64. Its derivatives are then
    off by 1e-8 or so, and those forward and backward differ.
    """
    program = jax.make_jaxpr(function)(*arguments)
    if (found := narrowing(program.jaxpr)) is not None:
        _warn_once(getattr(function, "__name__", repr(function)), found)


def narrowing(jaxpr: Any) -> str | None:
    """The first operation on float64 with a narrower result, or None."""
    for equation in jaxpr.eqns:
        inner = list(_jaxprs_of(equation))
        for sub in inner:
            if (found := narrowing(sub)) is not None:
                return found
        before, after = (
            {dtype for var in variables if (dtype := _floating(var)) is not None}
            for variables in (equation.invars, equation.outvars)
        )
        narrower = sorted(str(dtype) for dtype in after if dtype.itemsize < 8)
        if not inner and jnp.dtype("float64") in before and narrower:
            return f"{equation.primitive} to {narrower[0]}"
    return None


def _jaxprs_of(equation: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters, such as the body of a scan."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


def _floating(variable: Any) -> Any:
    dtype = getattr(variable.aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return None
    return jnp.dtype(dtype)


@functools.cache
def _warn_once(name: str, found: str) -> None:
    warnings.warn(
        f"{name} takes float64 and computes in less on its way ({found}), so its "
        f"derivatives are right to 1e-8 or so only: give its layers dtype=float64, "
        f"too.",
        stacklevel=3,
    )
