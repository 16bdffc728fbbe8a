"""Interleaved timing: A B C, C A B, …; medians and ratios."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.study.workdir import environment


def time_interleaved(
    contestants: Mapping[str, Callable[[], Any]], *, repeats: int
) -> dict[str, float]:
    """Median seconds of each contestant, until its result is ready.

    Args:
      contestants: by name; each is called once before, to compile.
      repeats: rounds over all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        jax.block_until_ready(contestant())
    shuffle = np.random.default_rng(0).permutation
    for _ in range(repeats):
        # In another order each round, so that none always profits from the same caches.
        for name in map(str, shuffle(list(contestants))):
            contestant = contestants[name]
            start = time.perf_counter()
            jax.block_until_ready(contestant())
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def table(seconds: Mapping[str, float], baseline: str) -> str:
    """A line per contestant: milliseconds, and the ratio to the baseline."""
    width = max(map(len, seconds))
    lines = [
        f"  {name:<{width}}  {1e3 * time:9.3f} ms  {time / seconds[baseline]:6.2f} ×"
        for name, time in seconds.items()
    ]
    return "\n".join(lines)


def store(
    path: Path | None, benchmark: str, config: Any, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Append rows to a file of JSON lines, each with its machine; None: do nothing."""
    if path is None:
        return
    about = {"benchmark": benchmark, "config": dataclasses.asdict(config)}
    with path.open("a") as lines:
        for row in rows:
            entry = about | dict(row) | {"environment": environment()}
            lines.write(json.dumps(entry, default=str) + "\n")
