"""How fast does the loss fall? (Proposition 4)

Each step's decrease beside the exact rate −(η/N²) gᵀKg, and the paper's bound
−(ηγ/2)(mean g)², γ = sup K: a bound that no kernel must obey.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.kernel_convergence.findings import Finding, Scale
from experiments.kernel_convergence.learner import (
    descend,
    make_learner,
    make_problem,
    stable_learning_rate,
)

NUM_STEPS = 300


class LossDecrease(NamedTuple):
    """`[steps]` each; all decreases are positive."""

    measured: Array | np.ndarray
    """L_t − L_t+1"""
    exact: Array | np.ndarray
    """(η/N²) gᵀKg, the decrease to first order in η"""
    bound: Array | np.ndarray
    """(ηγ/2)(mean g)², of which Proposition 4 says that the decrease is no less"""
    constant: Array | np.ndarray
    """γ 1ᵀK⁺1: the bound holds for every g only where this is at most 2"""


def measure(scale: Scale, progress: Progress) -> LossDecrease:
    """Full training, its kernel at every step."""
    problem = make_problem(0, scale.num_pool, scale.num_probe, scale.num_tokens)
    learner = make_learner(1)
    learning_rate = stable_learning_rate(learner, problem) / 4
    descent = descend(learner, problem)
    num_examples = len(problem.y)

    def loss(residual):
        return jnp.mean(residual**2) / 2

    @jax.jit
    def run(training):
        def step(training, _):
            residual = learner.outputs_fn(training.params, problem.x) - problem.y
            kernel = learner.kernel_fn(training.params, problem.x)
            after = descent.step(training, learning_rate)
            ones = jnp.ones(num_examples)
            gamma = jnp.diag(kernel).max()
            return after, LossDecrease(
                measured=loss(residual)
                - loss(learner.outputs_fn(after.params, problem.x) - problem.y),
                exact=learning_rate / num_examples**2 * residual @ kernel @ residual,
                bound=learning_rate * gamma / 2 * residual.mean() ** 2,
                constant=gamma * ones @ jnp.linalg.pinv(kernel, hermitian=True) @ ones,
            )

        return jax.lax.scan(step, training, length=NUM_STEPS)[1]

    del progress  # one call
    return jax.device_get(run(descent.init(learner.params)))


def draw(data: LossDecrease) -> Figure:
    """Decreases over steps, and the bound in units of the exact rate."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
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
    panels[0].set(title="The loss falls at the exact rate")
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
    """The exact rate within O(η); the bound at every step, or it is no bound."""
    ratio = data.measured / data.exact
    late = ratio[len(ratio) // 2 :]
    is_false = data.exact < data.bound
    return [
        Finding(
            claim="The loss falls by (η/N²) gᵀKg a step, to first order in η.",
            measured=f"Measured / exact is {ratio.min():.2f} to {ratio.max():.2f}, in "
            f"the second half {late.min():.3f} to {late.max():.3f}.",
            verdict="holds" if np.abs(late - 1).max() < 0.2 else "fails",
        ),
        Finding(
            claim="The loss falls by (ηγ/2)(mean g)² a step or more (Proposition 4).",
            measured=f"False at {is_false.sum()} of {len(is_false)} steps, first at "
            f"step {is_false.argmax() if is_false.any() else '-'}; at worst the exact "
            f"rate is {np.min(data.exact / data.bound):.2g} of the bound. γ 1ᵀK⁺1 is "
            f"{data.constant.min():.0f} to {data.constant.max():.0f}, and would have "
            f"to be at most 2. (K = 1, g = 1, N = 3 is a counterexample by hand.)",
            verdict="fails" if is_false.any() else "holds",
        ),
    ]
