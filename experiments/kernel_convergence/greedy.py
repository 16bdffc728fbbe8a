"""Does the greedy teacher learn faster? In function space and in parameter space.

Compared are the m examples of largest residual (greedy), as many drawn by residual
(soft), by |K r| (NINT) and uniformly (random), and the full batch. Measured are the
steps to a loss, at equal learning rates and at each method's best.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.progress import Progress

from attent_jax import selectors, teachers
from attent_jax.typing import SelectFn
from experiments.kernel_convergence.findings import Scale
from experiments.kernel_convergence.learner import (
    Problem,
    descend,
    make_learner,
    make_problems,
    stable_learning_rate,
)
from experiments.study.claims import Finding
from experiments.study.plots import colour_of, new_figure
from theory.empirical_ntk import ntk_vector_product
from theory.functional_gradient import functional_gradient_descent, teach_function
from theory.layout import kernel_product
from theory.spectrum import max_learning_rate

RATES = tuple(2 ** (half / 2) for half in range(-4, 5))
"""η in units of N/λ_max, a factor √2 apart: 0.25 to 4."""
EQUAL_RATE = 0
"""Index of a rate at which all methods are stable, for the equal-rate comparison."""
TARGET = 1e-2
"""Target of the loss, relative to the start."""
SHARE = 4
"""Size of the pool over the m examples of a step."""
NUM_STEPS = 500


class Teaching(NamedTuple):
    """Losses relative to the start, on the whole pool."""

    function: np.ndarray
    """`[methods, seeds, rates, steps]` in function space, under K_T."""
    parameter: np.ndarray
    """`[methods, seeds, rates, steps]` in parameter space."""
    num_pool: int


def measure(scale: Scale, progress: Progress) -> Teaching:
    """Run every method on several problems, networks and learning rates."""
    seeds, rates = jnp.arange(scale.num_seeds), jnp.array(RATES)
    problems = make_problems(
        scale.num_seeds, scale.num_pool, scale.num_probe, scale.num_tokens
    )

    @jax.jit
    def final_kernels(seeds: Array, problems: Problem) -> Array:
        return jax.lax.map(lambda lane: _final_kernel(*lane), (seeds, problems))

    @jax.jit
    def in_functions(method: Array, lanes) -> Array:
        def over_rates(lane):
            return jax.lax.map(lambda rate: _teach_function(method, rate, *lane), rates)

        return jax.lax.map(over_rates, lanes)

    @jax.jit
    def in_parameters(method: Array, lanes) -> Array:
        def over_rates(lane):
            return jax.lax.map(
                lambda rate: _teach_parameters(method, rate, *lane), rates
            )

        return jax.lax.map(over_rates, lanes)

    kernels = final_kernels(seeds, problems)
    function, parameter = [], []
    for method in progress.track(range(len(METHODS)), description="  teachers"):
        function.append(in_functions(method, (seeds, problems, kernels)))
        parameter.append(in_parameters(method, (seeds, problems)))
    return Teaching(np.array(function), np.array(parameter), scale.num_pool)


def _soft(rng, scores, num_selected, /):
    """Drawn with probability proportional to the score."""
    return selectors.gumbel_top_k(1.0)(rng, jnp.log(scores), num_selected)


def _all(rng, scores, num_selected, /):
    del num_selected
    return selectors.top_k()(rng, scores, scores.size)


SELECT_FNS = {
    "greedy": selectors.top_k(),
    "soft": _soft,
    "random": selectors.uniform(),
    "NINT": selectors.top_k(),
    "full": _all,
}
METHODS = tuple(SELECT_FNS)
"""Methods are passed as numbers, so that one compilation serves them all."""


def _select_fn(method: Array) -> SelectFn:
    def select_fn(rng, scores, num_selected, /):
        select_fns = list(SELECT_FNS.values())
        return jax.lax.switch(method, select_fns, rng, scores, num_selected)

    return select_fn


def _scores(method: Array, residual: Array, kernel_times: Callable[[Array], Array]):
    """|r|, or NINT's |K r|."""
    is_nint = method == METHODS.index("NINT")
    return jnp.abs(jax.lax.cond(is_nint, kernel_times, lambda r: r, residual))


def _relative_losses(residuals: Array) -> Array:
    losses = jnp.sum(residuals**2, axis=1)
    return losses / losses[0]


def _final_kernel(seed: Array, problem: Problem) -> Array:
    """K_T of a full training."""
    learner = make_learner(seed + 1000)
    descent = descend(learner, problem)
    rate = stable_learning_rate(learner, problem) / 2
    trained = descent.run(descent.init(learner.params), rate, NUM_STEPS)
    return learner.kernel_fn(trained.params, problem.x)


def _teach_function(
    method: Array, rate: Array, seed: Array, problem: Problem, kernel: Array
) -> Array:
    """`[steps]` losses of descent under a fixed kernel, from f = 0."""

    def score_fn(residual: Array) -> Array:
        return _scores(method, residual, lambda r: kernel_product(kernel, r))

    _, residuals = teach_function(
        functional_gradient_descent(
            kernel, lambda f: f - problem.y, rate * max_learning_rate(kernel) / 2
        ),
        jnp.zeros_like(problem.y),
        _select_fn(method),
        num_selected=len(problem.y) // SHARE,
        num_steps=NUM_STEPS,
        rng=jax.random.key(seed + 2000),
        score_fn=score_fn,
    )
    return _relative_losses(residuals)


def _teach_parameters(
    method: Array, rate: Array, seed: Array, problem: Problem
) -> Array:
    """`[steps]` losses of a network, from f = 0."""
    learner = make_learner(seed + 1000)
    product_fn = ntk_vector_product(learner.outputs_fn)

    def score_fn(params, residual: Array) -> Array:
        return _scores(method, residual, lambda r: product_fn(params, r, problem.x))

    teacher = teachers.attent(_select_fn(method), 1 / SHARE, 1, num_warmup_epochs=0)
    descent = descend(learner, problem, teacher, seed=seed + 2000, score_fn=score_fn)
    learning_rate = rate * stable_learning_rate(learner, problem)

    def step(training, _):
        residual = learner.outputs_fn(training.params, problem.x) - problem.y
        return descent.step(training, learning_rate), residual

    start = descent.init(learner.params)
    return _relative_losses(jax.lax.scan(step, start, length=NUM_STEPS)[1])


def steps_to(losses: np.ndarray, target: float) -> np.ndarray:
    """`[..., steps]` losses -> the first step at the target; inf: there is none."""
    is_there = losses <= target
    return np.where(is_there.any(-1), is_there.argmax(-1), np.inf)


def cost_per_step(method: str, num_pool: int) -> float:
    """Cost in forward passes of an example, by a cost model; nothing is timed.

    A trained example costs 3; a residual 1; K r by a vjp and a jvp 5 in all.
    """
    scores = {"greedy": 1, "soft": 1, "random": 0, "NINT": 5, "full": 0}
    trained = num_pool if method == "full" else num_pool // SHARE
    return scores[method] * num_pool + 3 * trained


def draw(data: Teaching) -> Figure:
    """Draw losses at an equal rate, and steps to 1 % of the loss over rates."""
    figure = new_figure(12, 8)
    panels = figure.subplots(2, 2)
    for row, space in zip(panels, ("function", "parameter"), strict=True):
        losses = getattr(data, space)
        for number, method in enumerate(METHODS):
            colour = colour_of(method, number)
            curve = np.median(losses[number, :, EQUAL_RATE], axis=0)
            row[0].semilogy(curve, color=colour, label=method)
            steps = np.median(steps_to(losses[number], TARGET), axis=0)
            row[1].loglog(RATES, steps, "o-", color=colour, label=method)
        row[0].set(
            xlabel="step (greedy … NINT: a quarter of the pool each)",
            ylabel="loss on the pool / at the start",
            ylim=(1e-6, 2),
            title=f"{space} space, η = {RATES[EQUAL_RATE]} N/λ_max",
        )
        row[1].set(
            xlabel="learning rate η, in N/λ_max",
            ylabel="steps to 1 % of the loss",
            title=f"{space} space (no mark: not reached by most seeds)",
        )
        row[1].set_xscale("log", base=2)
        for axes in row:
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    figure.suptitle(f"Medians of {data.function.shape[1]} problems and networks")
    return figure


def judge(data: Teaching) -> list[Finding]:
    """Steps to 1 % of the loss: at one rate, at the best ones, by cost; every seed."""
    findings = []
    for space in ("function", "parameter"):
        steps = dict(zip(METHODS, steps_to(getattr(data, space), TARGET), strict=True))
        equal = {name: by_rate[:, EQUAL_RATE] for name, by_rate in steps.items()}
        best = {name: by_rate.min(axis=1) for name, by_rate in steps.items()}
        rates = ", ".join(
            f"{name} {np.median(np.array(RATES)[by_rate.argmin(axis=1)]):.2g}"
            for name, by_rate in steps.items()
        )
        is_at_edge = {
            name: bool((by_rate.argmin(axis=1) == len(RATES) - 1).any())
            for name, by_rate in steps.items()
        }
        note = f" Best η in N/λ_max, medians: {rates}."
        findings += [
            _compare("random", equal, f"at an equal learning rate, in {space} space"),
            *(
                _compare(
                    other,
                    best,
                    f"at each method's best learning rate, in {space} space",
                    note,
                    is_open=is_at_edge["greedy"] or is_at_edge[other],
                )
                for other in ("random", "soft", "full")
            ),
        ]
        if space == "parameter":
            cost = {
                name: taken * cost_per_step(name, data.num_pool)
                for name, taken in best.items()
            }
            findings += [
                _compare(
                    other,
                    cost,
                    "for its cost, scoring included, at best rates, in parameter space",
                    is_open=is_at_edge["greedy"] or is_at_edge[other],
                )
                for other in ("random", "full")
            ]
    return findings


def _compare(
    other: str,
    needed: dict[str, np.ndarray],
    where: str,
    note: str = "",
    *,
    is_open: bool = False,
) -> Finding:
    """`needed[method][seed]` steps or cost; every seed must agree.

    `is_open`: a best rate is the largest tried, so that a better one may exist.
    """
    listing = ", ".join(
        f"{name} {np.median(values):,.0f}"
        if np.isfinite(np.median(values))
        else f"{name} not reached"
        for name, values in needed.items()
    )
    claim = f"Greedy teaching reaches 1 % of the loss sooner than {other}, {where}."
    is_reached = np.isfinite(needed[other]) & np.isfinite(needed["greedy"])
    if not is_reached.all():
        measured = f"Not reached by every seed. Medians: {listing}."
        return Finding(claim, measured, "inconclusive")
    ratios = needed[other] / needed["greedy"]
    if is_open or ratios.min() <= 1 < ratios.max():
        verdict = "inconclusive"
    else:
        verdict = "holds" if ratios.min() > 1 else "fails"
    measured = (
        f"{other} needs {ratios.min():.2f} to {ratios.max():.2f} times what greedy "
        f"needs over {len(ratios)} seeds. Medians: {listing}.{note}"
        + is_open
        * " A best rate is the largest tried."
    )
    return Finding(claim, measured, verdict)
