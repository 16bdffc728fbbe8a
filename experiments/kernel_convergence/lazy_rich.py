"""When does the kernel stay where it starts? From rich to lazy training.

The drift ‖K_T − K_0‖/‖K_0‖ is shown over the scale α of the output, and over width:
with heads in proportion to the width, and with one head. The width is that of one
attention layer, because other layers freeze at other rates.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.progress import Progress
from scipy import stats

from experiments.kernel_convergence.findings import (
    Scale,
    slope,
)
from experiments.kernel_convergence.learner import (
    Learner,
    Problem,
    descend,
    make_layer,
    make_learner,
    make_problems,
    stable_learning_rate,
)
from experiments.study.claims import Finding, Verdict
from experiments.study.plots import new_figure
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
    """Train several seeds, each with its own problem and network."""
    layer_seeds = jnp.arange(scale.layer_seeds)
    problems = make_problems(
        scale.layer_seeds, scale.num_pool, scale.num_probe, scale.num_tokens
    )
    few = jax.tree.map(lambda leaf: leaf[: scale.num_seeds], (layer_seeds, problems))

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
            of_width(layer_seeds, problems, width=width, num_heads=num_heads_of(width))
            for width in progress.track(scale.widths, description=f"  {name}")
        ]
        return np.stack(found, axis=1)

    return LazyRich(
        by_scale=np.asarray(by_scale(*few)),
        widths=np.array(scale.widths),
        by_width_many_heads=by_width("heads ∝ width", lambda width: width // HEAD_SIZE),
        by_width_one_head=by_width("one head", lambda width: 1),
    )


def _drift(learner: Learner, problem: Problem) -> Array:
    """Drift of the kernel on the probe set over a full training."""
    rate = stable_learning_rate(learner, problem) / 2
    descent = descend(learner, problem)
    start = descent.init(learner.params)
    end = descent.run(start, rate, NUM_STEPS)
    return relative_distance(
        learner.kernel_fn(end.params, problem.probe),
        learner.kernel_fn(start.params, problem.probe),
    )


def slopes(x, drifts: np.ndarray) -> np.ndarray:
    """`[seeds]` slopes of log drift against log x."""
    return np.array([slope(x, row) for row in drifts])


def draw(data: LazyRich) -> Figure:
    """Draw two panels of drift on log axes: a line of means, a dot per seed."""
    figure = new_figure(12, 4.5)
    panels = figure.subplots(1, 2)

    def plot(axes, x, drifts, label, colour):
        axes.loglog(x, drifts.mean(axis=0), "-", color=colour, label=label)
        for row in drifts:
            axes.loglog(x, row, ".", color=colour, alpha=0.6)

    lazy = slopes(SCALES[LAZY_FROM:], data.by_scale[:, LAZY_FROM:])
    label = f"slope {lazy.mean():.2f} for α ≥ {SCALES[LAZY_FROM]:g}"
    plot(panels[0], SCALES, data.by_scale, label, "C0")
    panels[0].set(xlabel="output scale α, in f = α (f_θ − f_θ0)")
    panels[0].set(title="Rich to lazy by scale (transformer, width 32, one head)")
    for drifts, name, colour in (
        (data.by_width_one_head, "one head of size w", "C1"),
        (data.by_width_many_heads, f"w/{HEAD_SIZE} heads of size {HEAD_SIZE}", "C2"),
    ):
        label = f"{name}: slope {slopes(data.widths, drifts).mean():.2f}"
        plot(panels[1], data.widths, drifts, label, colour)
    panels[1].set(xlabel="width w", title="Rich to lazy by width (one attention layer)")
    for axes in panels:
        axes.set(ylabel=f"‖K_T − K_0‖/‖K_0‖ after {NUM_STEPS} steps")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3, which="both")
        axes.legend(title="lines: means of seeds")
    return figure


def judge(data: LazyRich) -> list[Finding]:
    """Judge scale by the mean slope, and width by its 95 % interval over seeds."""
    lazy = slopes(SCALES[LAZY_FROM:], data.by_scale[:, LAZY_FROM:])
    from_two = slopes(SCALES[2:], data.by_scale[:, 2:])
    last = data.by_width_one_head[:, -1]
    return [
        Finding(
            claim="The kernel freezes as 1/α with the scale of the output.",
            measured=f"Slope {_interval(lazy)} for α ≥ {SCALES[LAZY_FROM]:g}, "
            f"{len(lazy)} seeds ({from_two.mean():.2f} from α = {SCALES[2]:g} on, "
            f"where the kernel still moves by {data.by_scale[:, 2].mean():.2f}).",
            verdict="holds" if abs(lazy.mean() + 1) < 0.1 else "fails",
        ),
        *(
            Finding(
                claim=f"The kernel of an attention layer freezes with width {heads}.",
                measured=f"Slope {_interval(found)} over widths {data.widths[0]} to "
                f"{data.widths[-1]}, {len(found)} seeds; frozen is −0.4 or less."
                + remark,
                verdict=_freezes(found),
            )
            for heads, found, remark in (
                (
                    "if heads grow with it",
                    slopes(data.widths, data.by_width_many_heads),
                    "",
                ),
                (
                    "with one head",
                    slopes(data.widths, data.by_width_one_head),
                    f" At width {data.widths[-1]} it still moves by {last.min():.2f} "
                    f"to {last.max():.2f}.",
                ),
            )
        ),
    ]


def _bounds(found: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean (Student's t)."""
    half = stats.t.ppf(0.975, len(found) - 1) * stats.sem(found)
    return found.mean() - half, found.mean() + half


def _interval(found: np.ndarray) -> str:
    low, high = _bounds(found)
    return f"{found.mean():.2f} [{low:.2f}, {high:.2f}]"


def _freezes(found: np.ndarray) -> Verdict:
    low, high = _bounds(found)
    if high <= -0.4:
        return "holds"
    return "fails" if low > -0.4 else "inconclusive"
