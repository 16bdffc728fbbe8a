"""Counting what XLA compiles, and comparing programs without compiling them."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np


@contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that grows by one entry for each program compiled in the body."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(f"{duration_secs:.3f} s")

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def assert_same_program(one, other, *arguments) -> None:
    """The functions have the same jaxpr for the arguments, constants included."""
    programs = [jax.make_jaxpr(function)(*arguments) for function in (one, other)]
    assert str(programs[0]) == str(programs[1])
    for first, second in zip(*(program.consts for program in programs), strict=True):
        np.testing.assert_array_equal(first, second)
