"""When does the kernel stay where it starts? From rich to lazy training.

Drift ‖K_T − K_0‖/‖K_0‖ over the scale α of the output, and over width, with heads in
proportion to the width and with one head (of one attention layer: what is added to it
freezes in its own way).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.kernel_convergence.findings import Finding, Scale, slope
from experiments.kernel_convergence.learner import (
    Learner,
    Problem,
    descend,
    make_layer,
    make_learner,
    make_problems,
    stable_learning_rate,
)
from theory.convergence import relative_distance

SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
LAZY_FROM = SCALES.index(8.0)
HEAD_SIZE = 4
NUM_STEPS = 300


class LazyRich(NamedTuple):
    """Drifts after training, `[seeds, ...]`."""

    by_scale: np.ndarray
    """`[seeds, scales]`"""
    widths: np.ndarray
    by_width_many_heads: np.ndarray
    """`[seeds, widths]` with w/4 heads."""
    by_width_one_head: np.ndarray
    """`[seeds, widths]`"""


def measure(scale: Scale, progress: Progress) -> LazyRich:
    """Several seeds, each its own problem and network."""
    seeds = jnp.arange(scale.num_seeds)

    problems = make_problems(
        scale.num_seeds, scale.num_pool, scale.num_probe, scale.num_tokens
    )

    @jax.jit
    def by_scale(seeds: Array, problems: Problem) -> Array:
        def drifts(seed_and_problem):
            seed, problem = seed_and_problem
            return jax.lax.map(
                lambda alpha: _drift(
                    make_learner(seed + 1000, output_scale=alpha), problem
                ),
                jnp.array(SCALES),
            )

        return jax.lax.map(drifts, (seeds, problems))

    @functools.partial(jax.jit, static_argnames=("width", "num_heads"))
    def of_width(seeds: Array, problems: Problem, *, width: int, num_heads: int):
        def drift(seed_and_problem):
            seed, problem = seed_and_problem
            layer = make_layer(seed + 1000, width=width, num_heads=num_heads)
            return _drift(layer, problem)

        return jax.lax.map(drift, (seeds, problems))

    def by_width(name: str, num_heads_of) -> np.ndarray:
        found = [
            of_width(seeds, problems, width=width, num_heads=num_heads_of(width))
            for width in progress.track(scale.widths, description=f"  {name}")
        ]
        return np.stack(found, axis=1)

    return LazyRich(
        by_scale=np.asarray(by_scale(seeds, problems)),
        widths=np.array(scale.widths),
        by_width_many_heads=by_width("heads ∝ width", lambda width: width // HEAD_SIZE),
        by_width_one_head=by_width("one head", lambda width: 1),
    )


def _drift(learner: Learner, problem: Problem) -> Array:
    """Of the kernel on the probe set, over a full training."""
    rate = stable_learning_rate(learner, problem) / 2
    descent = descend(learner, problem)
    start = descent.init(learner.params)
    end = descent.run(start, rate, NUM_STEPS)
    return relative_distance(
        learner.kernel_fn(end.params, problem.probe),
        learner.kernel_fn(start.params, problem.probe),
    )


def draw(data: LazyRich) -> Figure:
    """Two panels of drift, log axes, a line through the means and a dot per seed."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)

    def plot(axes, x, drifts, label, colour):
        axes.loglog(x, drifts.mean(axis=0), "-", color=colour, label=label)
        for row in drifts:
            axes.loglog(x, row, ".", color=colour, alpha=0.6)

    fitted = slope(SCALES[LAZY_FROM:], data.by_scale[:, LAZY_FROM:].mean(axis=0))
    label = f"slope {fitted:.2f} for α ≥ {SCALES[LAZY_FROM]:g}"
    plot(panels[0], SCALES, data.by_scale, label, "C0")
    panels[0].set(xlabel="output scale α, in f = α (f_θ − f_θ0)")
    panels[0].set(title="Rich to lazy by scale (width 32, one head)")
    for drifts, name, colour in (
        (data.by_width_one_head, "one head of size w", "C1"),
        (data.by_width_many_heads, f"w/{HEAD_SIZE} heads of size {HEAD_SIZE}", "C2"),
    ):
        fitted = slope(data.widths, drifts.mean(axis=0))
        plot(panels[1], data.widths, drifts, f"{name}: slope {fitted:.2f}", colour)
    panels[1].set(
        xlabel="width w", title="One attention layer: heads decide, not width"
    )
    for axes in panels:
        axes.set(ylabel=f"‖K_T − K_0‖/‖K_0‖ after {NUM_STEPS} steps")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    return figure


def judge(data: LazyRich) -> list[Finding]:
    """Slopes of the seeds' mean drift."""
    by_scale = slope(SCALES[LAZY_FROM:], data.by_scale[:, LAZY_FROM:].mean(axis=0))
    many, one = (
        slope(data.widths, drifts.mean(axis=0))
        for drifts in (data.by_width_many_heads, data.by_width_one_head)
    )
    last = data.by_width_one_head[:, -1].mean()
    seeds = len(data.by_scale)
    return [
        Finding(
            claim="The kernel freezes as 1/α with the scale of the output.",
            measured=f"Slope {by_scale:.2f} for α ≥ {SCALES[LAZY_FROM]:g}, "
            f"{seeds} seeds.",
            verdict="holds" if abs(by_scale + 1) < 0.1 else "fails",
        ),
        Finding(
            claim="The kernel freezes with width, if heads grow with it.",
            measured=f"Slope {many:.2f} over widths {data.widths[0]} to "
            f"{data.widths[-1]} (at most −0.4 expected).",
            verdict="holds" if many <= -0.4 else "fails",
        ),
        Finding(
            claim="The kernel freezes with width whatever the number of heads.",
            measured=f"With one head the slope is {one:.2f}, and at width "
            f"{data.widths[-1]} the kernel still moves by {last:.2f}.",
            verdict="holds" if one <= -0.4 else "fails",
        ),
    ]
