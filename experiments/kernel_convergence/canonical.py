"""Is the limit kernel the learner's? The canonical kernel against the network.

Compared are the path-kernel sum Σ (η/N) K_t g_t with the network's change, and descent
under the final kernel K_T, started at t0, with the network's change after t0. One of
these starts is t0 = 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.kernel_convergence.findings import Scale, slope
from experiments.kernel_convergence.learner import (
    Descent,
    Learner,
    Problem,
    descend,
    log_spaced,
    make_learner,
    make_problem,
    stable_learning_rate,
)
from experiments.study.claims import Finding
from experiments.study.plots import new_figure
from theory.convergence import relative_distance
from theory.empirical_ntk import ntk_vector_product
from theory.functional_gradient import predict_mse

PATH_STEPS = 100
"""Steps of the coarsest path; halving η doubles them."""


class Canonical(NamedTuple):
    """Errors relative to the network's change on the probe set."""

    learning_rates: np.ndarray
    """`[rates]` in units of N/λ_max(K_0), of the path-kernel sums."""
    path_errors: np.ndarray
    """`[rates]` ‖(f_T − f_0) + Σ (η/N) K_t g_t‖ / ‖f_T − f_0‖"""
    starts: np.ndarray
    """`[starts]` t0"""
    late_errors: np.ndarray
    """`[starts]` K_T from f_t0, ‖error‖ / ‖f_T − f_t0‖"""
    drifts: np.ndarray
    """`[starts]` ‖K_t0 − K_T‖ / ‖K_T‖"""
    frozen_error: float
    """K_0 from f_0: the lazy prediction."""
    final_loss_ratio: float
    """Loss at T over loss at 0, on the pool."""


def measure(scale: Scale, progress: Progress) -> Canonical:
    """Train one network with three step sizes, and compare its late phases."""
    problem = make_problem(0, scale.num_pool, scale.num_probe, scale.num_tokens)
    learner = make_learner(1)
    unit = stable_learning_rate(learner, problem)
    descent = descend(learner, problem)
    rates = 0.5 ** np.arange(1, 5)
    path_error = _path_error_fn(learner, problem, descent)
    path_errors = [
        float(path_error(rate * unit, round(PATH_STEPS / 2 / rate)))
        for rate in progress.track(rates, description="  path-kernel sums")
    ]

    starts = log_spaced(scale.num_steps)
    training, states = descent.init(learner.params), {}
    for step in starts:
        training = descent.run(training, unit / 2, step - int(training.step))
        states[step] = training.params

    @jax.jit
    def functions(params):
        return learner.outputs_fn(params, problem.points)

    @jax.jit
    def kernel_to_points(params):
        return learner.kernel_fn(params, problem.points, problem.x)

    num_pool = len(problem.y)

    def error(kernel, start: int) -> float:
        """Relative error on the probe set of descent under a fixed kernel."""
        before, after = (functions(states[step]) for step in (start, starts[-1]))
        predicted = predict_mse(
            kernel[:num_pool],
            before[:num_pool],
            problem.y,
            learning_rate=unit / 2,
            num_steps=starts[-1] - start,
            kernel_to_points=kernel,
            outputs_on_points=before,
        )
        distance = jnp.linalg.norm((predicted - after)[num_pool:])
        return float(distance / jnp.linalg.norm((after - before)[num_pool:]))

    last = kernel_to_points(states[starts[-1]])
    first_loss, last_loss = (
        jnp.sum((functions(states[step])[:num_pool] - problem.y) ** 2)
        for step in (starts[0], starts[-1])
    )
    return Canonical(
        learning_rates=rates,
        path_errors=np.array(path_errors),
        starts=np.array(starts[:-1]),
        late_errors=np.array([error(last, start) for start in starts[:-1]]),
        drifts=np.array(
            [
                relative_distance(kernel_to_points(states[start]), last)
                for start in starts[:-1]
            ]
        ),
        frozen_error=error(kernel_to_points(states[0]), 0),
        final_loss_ratio=float(last_loss / first_loss),
    )


def _path_error_fn(learner: Learner, problem: Problem, descent: Descent):
    """`(learning_rate, num_steps) -> error`, compiled once for all of them."""
    product_fn = ntk_vector_product(learner.outputs_fn)

    @jax.jit
    def path_error(learning_rate, num_steps):
        def step(_, carry):
            training, moved = carry
            residual = learner.outputs_fn(training.params, problem.x) - problem.y
            move = product_fn(training.params, residual, problem.probe, problem.x)
            moved = moved - learning_rate / len(residual) * move
            return descent.step(training, learning_rate), moved

        start = (descent.init(learner.params), jnp.zeros(len(problem.probe)))
        training, moved = jax.lax.fori_loop(0, num_steps, step, start)
        # f_0 = 0
        actual = learner.outputs_fn(training.params, problem.probe)
        return relative_distance(moved, actual)

    return path_error


def path_slope(data: Canonical) -> float:
    """Slope of the path-kernel sum's error against η."""
    return slope(data.learning_rates, data.path_errors)


def draw(data: Canonical) -> Figure:
    """Path-kernel error over η; late-phase error and drift over t0."""
    figure = new_figure(12, 4.5)
    panels = figure.subplots(1, 2)
    fitted = path_slope(data)
    panels[0].loglog(
        data.learning_rates, data.path_errors, "o-", label=f"slope {fitted:.2f}"
    )
    panels[0].set(
        xlabel="learning rate η, in N/λ_max(K_0)",
        ylabel="error of the path-kernel sum / move",
        title="f_T − f_0 against −Σ (η/N) K_t g_t",
    )
    panels[0].set_xscale("log", base=2)
    panels[0].legend()
    starts = np.maximum(data.starts, 0.5)  # a place for 0 on a log axis
    panels[1].loglog(
        starts, data.late_errors, "o-", label="K_T from f_t0: error / move"
    )
    panels[1].loglog(starts, data.drifts, "s--", label="drift ‖K_t0 − K_T‖/‖K_T‖")
    panels[1].axhline(
        data.frozen_error,
        color="gray",
        linestyle=":",
        label="K_0 from f_0 (lazy): error",
    )
    panels[1].set(
        xlabel="t0, the step at which the kernel is fixed to K_T (0 drawn at 0.5)",
        ylabel="relative to the network's remaining move",
        title="Descent under the final kernel from t0 on",
    )
    panels[1].legend()
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure


def judge(data: Canonical) -> list[Finding]:
    """First order within 0.2; the late error below 5 % where the drift is."""
    fitted = path_slope(data)
    is_close = data.drifts < 0.01
    late = data.late_errors[is_close]
    from_start = data.late_errors[0]
    findings = [
        Finding(
            claim="The network's change is the sum of its kernels' changes along the "
            "path, up to O(η).",
            measured="Relative errors "
            + ", ".join(f"{error:.1e}" for error in data.path_errors)
            + f" for η halved each time; slope {fitted:.2f}.",
            verdict="holds" if abs(fitted - 1) < 0.2 else "fails",
        )
    ]
    if not late.size or data.final_loss_ratio > 1e-4:
        return [
            *findings,
            Finding(
                "K_T predicts the late phase.",
                "Not trained long enough.",
                "inconclusive",
            ),
        ]
    return [
        *findings,
        Finding(
            claim="Descent under the final kernel, started late, is what the network "
            "does from there.",
            measured=f"The error of the remaining move falls from {from_start:.2f} at "
            f"t0 = 0 to {late[-1]:.1e} at t0 = {data.starts[is_close][-1]}, as the "
            f"drift falls from {data.drifts[0]:.2f} to {data.drifts[-1]:.1e}; it is at "
            f"most {late.max():.2f} once the drift is below 1 %.",
            verdict="holds" if late.max() < 0.05 else "fails",
        ),
        Finding(
            claim="The final (canonical) kernel from f_0 reproduces the network.",
            measured=f"Its error is {from_start:.2f} of the probe set's change; that "
            f"of the frozen initial kernel is {data.frozen_error:.2f}.",
            verdict="fails" if from_start > 0.05 else "holds",
        ),
    ]
