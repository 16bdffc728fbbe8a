"""Functional descent is parameter descent, to first order in the step (Sec. 3).

One step of the parameters is compared with one step of the function along K_θ, while
the learning rate is halved: at the start, early and late in training.
"""

from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.kernel_convergence.findings import Scale, slope
from experiments.kernel_convergence.learner import (
    descend,
    make_learner,
    make_problem,
    stable_learning_rate,
)
from experiments.study.claims import Finding
from experiments.study.plots import new_figure
from theory.functional_gradient import consistency_residual

NUM_HALVINGS = 8
STEPS = (0, 50, 500)


class Consistency(NamedTuple):
    """Residuals ‖Δf + (η/N) K g‖ / ‖(η/N) K g‖."""

    learning_rates: np.ndarray
    """`[rates]` in units of N/λ_max(K_0)."""
    steps: np.ndarray
    """`[states]` of training, at which the step is taken."""
    residuals: np.ndarray
    """`[states, rates]`"""


def measure(scale: Scale, progress: Progress) -> Consistency:
    """Take single steps from three moments of one training."""
    problem = make_problem(0, scale.num_pool, scale.num_probe, scale.num_tokens)
    learner = make_learner(1)
    unit = stable_learning_rate(learner, problem)
    descent = descend(learner, problem)

    @jax.jit
    def residual(params, learning_rate):
        return consistency_residual(
            learner.outputs_fn,
            lambda f: f - problem.y,
            params,
            problem.x,
            learning_rate,
        )

    rates = 0.5 ** np.arange(NUM_HALVINGS + 1)
    residuals, training = [], descent.init(learner.params)
    for step in progress.track(STEPS, description="  moments"):
        training = descent.run(training, unit / 2, step - int(training.step))
        residuals.append([residual(training.params, rate * unit) for rate in rates])
    return Consistency(rates, np.array(STEPS), np.array(residuals))


def slopes(data: Consistency) -> np.ndarray:
    """`[states]` slopes over the smaller half of the learning rates."""
    half = NUM_HALVINGS // 2
    return np.array(
        [slope(data.learning_rates[half:], row[half:]) for row in data.residuals]
    )


def draw(data: Consistency) -> Figure:
    """Residual against learning rate, log axes."""
    figure = new_figure(6.5, 4.5)
    axes = figure.subplots()
    for step, row, fitted in zip(data.steps, data.residuals, slopes(data), strict=True):
        label = f"at step {step}: slope {fitted:.3f}"
        axes.loglog(data.learning_rates, row, "o-", label=label)
    guide = data.residuals[0, -1] * data.learning_rates / data.learning_rates[-1]
    axes.loglog(data.learning_rates, guide, "k:", label="slope 1")
    axes.set(
        xlabel="learning rate η, in N/λ_max(K_0)",
        ylabel="‖Δf + (η/N) K g‖ / ‖(η/N) K g‖",
        title="One step of the parameters against one of the function",
    )
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def judge(data: Consistency) -> list[Finding]:
    """It is of first order if the slope is 1 within 0.05."""
    fitted = slopes(data)
    return [
        Finding(
            claim="Functional and parameter gradient descent agree to first order: "
            "their relative difference is O(η).",
            measured="Fitted slopes of the residual against η at steps "
            + ", ".join(
                f"{step}: {value:.3f}"
                for step, value in zip(data.steps, fitted, strict=True)
            )
            + f"; the smallest residual is {data.residuals.min():.1e}.",
            verdict="holds" if np.abs(fitted - 1).max() < 0.05 else "fails",
        )
    ]
