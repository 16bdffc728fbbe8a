"""The run-time check of attent_jax's array annotations; conftest.py installs it."""

import typing

import beartype
import jaxtyping


def checked(function):
    """Check what holds arrays, shapes and dtypes included, and nothing else.

    Numbers, callables and pools are checked by the library itself, whose errors the
    tests want to see.
    """
    function.__annotations__ = {
        name: hint
        for name, hint in function.__annotations__.items()
        if _holds_arrays(hint)
    }
    return beartype.beartype(function)


def _holds_arrays(hint) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_holds_arrays, typing.get_args(hint)))
