"""Wall time by phase, without compilation."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax

_Tree = TypeVar("_Tree")


class Timer:
    """Adds up wall seconds by phase; compilation counts as "compile".

    JAX returns before the device is done. Pass a phase's results to the function that
    it yields, and the phase waits for them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from experiments.study.timer import Timer
      >>> timer = Timer()
      >>> with timer.phase("train") as wait:
      ...     result = wait(jax.jit(jnp.sin)(jnp.ones(8)))
      >>> sorted(timer.seconds)
      ['compile', 'train']
    """

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        """Seconds by phase."""

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[_Tree], _Tree]]:
        """Time the body as phase `name`; phases of one timer do not nest."""
        compiling = 0.0

        def on_event(event: str, duration_secs: float, **_) -> None:
            nonlocal compiling
            if event.startswith("/jax/core/compile/"):
                compiling += duration_secs

        jax.monitoring.register_event_duration_secs_listener(on_event)
        start = time.perf_counter()
        try:
            yield jax.block_until_ready
        finally:
            elapsed = time.perf_counter() - start
            jax.monitoring.unregister_event_duration_listener(on_event)
            self.seconds["compile"] += compiling
            self.seconds[name] += elapsed - compiling
