"""How fast does the loss fall? (Proposition 4)

Each step's decrease is compared with the exact rate −(η/N²) gᵀKg, and with the paper's
bound −(ηγ/2)(mean g)², γ = sup K. Kernels need not satisfy this bound.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.kernel_convergence.findings import Scale
from experiments.kernel_convergence.learner import (
    descend,
    make_learner,
    make_problem,
)
from experiments.study.claims import Finding
from experiments.study.plots import new_figure

NUM_STEPS = 2500


class LossDecrease(NamedTuple):
    """`[steps]` each; all decreases are positive."""

    measured: Array | np.ndarray
    """L_t − L_t+1"""
    exact: Array | np.ndarray
    """(η/N²) gᵀKg, the decrease to first order in η"""
    deviation_ratio: Array | np.ndarray
    """(measured/exact − 1) at η over that at η/2, from the same parameters: 2"""
    bound: Array | np.ndarray
    """(ηγ/2)(mean g)², a lower bound of the decrease by Proposition 4"""
    constant: Array | np.ndarray
    """γ 1ᵀK⁺1: the bound holds for every g only where this is at most 2"""
    admissible: Array | np.ndarray
    """2τγη, τ = 1: Proposition 4 assumes that this is at most 1"""


def measure(scale: Scale, progress: Progress) -> LossDecrease:
    """Train on everything, with the kernel at every step."""
    del progress  # one call
    problem = make_problem(0, scale.num_pool, scale.num_probe, scale.num_tokens)
    learner = make_learner(1)
    descent = descend(learner, problem)
    num_examples = len(problem.y)
    # Proposition 4 allows 0.5/γ; γ grows in training.
    first = learner.kernel_fn(learner.params, problem.x)
    learning_rate = 0.3 / jnp.diag(first).max()

    def residual_of(training):
        return learner.outputs_fn(training.params, problem.x) - problem.y

    def loss(training):
        return jnp.mean(residual_of(training) ** 2) / 2

    @jax.jit
    def run(training):
        def step(training, _):
            residual = residual_of(training)
            kernel = learner.kernel_fn(training.params, problem.x)
            exact = learning_rate / num_examples**2 * residual @ kernel @ residual
            after = descent.step(training, learning_rate)
            half_way = descent.step(training, learning_rate / 2)
            measured = loss(training) - loss(after)
            half = loss(training) - loss(half_way)
            ones = jnp.ones(num_examples)
            gamma = jnp.diag(kernel).max()
            return after, LossDecrease(
                measured=measured,
                exact=exact,
                deviation_ratio=(measured / exact - 1) / (2 * half / exact - 1),
                bound=learning_rate * gamma / 2 * residual.mean() ** 2,
                constant=gamma * ones @ jnp.linalg.pinv(kernel, hermitian=True) @ ones,
                admissible=2 * gamma * learning_rate,
            )

        return jax.lax.scan(step, training, length=NUM_STEPS)[1]

    return jax.device_get(run(descent.init(learner.params)))


def draw(data: LossDecrease) -> Figure:
    """Draw decreases over steps, and the bound in units of the exact rate."""
    figure = new_figure(12, 4.5)
    panels = figure.subplots(1, 2)
    steps = np.arange(len(data.measured))
    is_false = data.exact < data.bound
    panels[0].semilogy(steps, data.measured, label="measured L_t − L_t+1", linewidth=3)
    panels[0].semilogy(steps, data.exact, "--", label="exact rate (η/N²) gᵀKg")
    panels[0].semilogy(
        steps, data.bound, ":", color="tab:green", label="bound of Prop. 4"
    )
    panels[0].semilogy(
        steps[is_false],
        data.bound[is_false],
        "x",
        color="tab:red",
        markersize=4,
        label=f"bound above the exact rate: false ({is_false.sum()} of {len(steps)})",
    )
    panels[0].set(xlabel="step", ylabel="decrease of the loss per step")
    panels[0].set(title="Decrease of the loss: measured, exact, claimed")
    panels[0].set(ylim=(data.exact.min() / 100, None))
    ratio = data.exact / data.bound
    panels[1].semilogy(steps, ratio, color="tab:green")
    limits = ratio.min() / 2, 1e3  # at step 0 the bound is 0: targets have mean 0
    panels[1].axhspan(limits[0], 1, color="tab:red", alpha=0.1)
    panels[1].set(
        xlabel="step",
        ylabel="exact rate / bound (below 1: the bound is false)",
        ylim=limits,
        title=f"The bound needs γ 1ᵀK⁺1 ≤ 2; here it is {data.constant.min():.0f} "
        f"to {data.constant.max():.0f}",
    )
    for axes in panels:
        axes.grid(alpha=0.3)
    panels[0].legend()
    return figure


def judge(data: LossDecrease) -> list[Finding]:
    """First order: deviations halve with η. A bound must hold at every step."""
    ratio = data.measured / data.exact
    halving = np.percentile(data.deviation_ratio, [5, 50, 95])
    is_first_order = abs(halving[1] - 2) < 0.1
    is_false = (data.exact < data.bound) & (data.admissible <= 1)
    where = ""
    if is_false.any():
        verdict = "fails"
        where = f", first at step {is_false.argmax()}"
    else:  # for other g it may fail, unless the kernel forbids it
        verdict = "holds" if data.constant.max() <= 2 else "inconclusive"
    return [
        Finding(
            claim="The loss falls by (η/N²) gᵀKg a step, to first order in η.",
            measured=f"Measured / exact is {ratio.min():.3f} to {ratio.max():.3f} over "
            f"{len(ratio)} steps; its deviation from 1 divides by {halving[1]:.2f} "
            f"({halving[0]:.2f} to {halving[2]:.2f} in 90 % of steps) as η is halved.",
            verdict="holds" if is_first_order else "fails",
        ),
        Finding(
            claim="The loss falls by (ηγ/2)(mean g)² a step or more, if η ≤ 1/(2τγ) "
            "(Proposition 4).",
            measured=f"False at {is_false.sum()} of {len(is_false)} steps{where}; at "
            f"worst the exact rate is {np.min(data.exact / data.bound):.2g} of the "
            f"bound. 2τγη is at most {data.admissible.max():.2f}. For every g it would "
            f"need γ 1ᵀK⁺1 ≤ 2, which is {data.constant.min():.0f} to "
            f"{data.constant.max():.0f}. (K = 1, g = 1, N = 3 is a counterexample by "
            f"hand.)",
            verdict=verdict,
        ),
    ]
