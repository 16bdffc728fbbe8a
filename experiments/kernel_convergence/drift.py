"""Does the kernel converge as training does? (Theorem 3)

K_t is recorded on a fixed held-out probe set: for several widths and depths under full
training, and for the first network under three teachers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from attent_jax import selectors, teachers
from attent_jax.typing import Teacher
from experiments.kernel_convergence.findings import Scale
from experiments.kernel_convergence.learner import (
    Learner,
    descend,
    log_spaced,
    make_learner,
    make_problem,
    stable_learning_rate,
)
from experiments.study.claims import Finding
from experiments.study.plots import colour_of, new_figure
from theory.convergence import KernelTracker

RATIO, INTERVAL = 0.25, 10
"""The teachers select a quarter of the pool every 10 steps."""


class Drift(NamedTuple):
    """One training."""

    network: str
    teacher: str
    steps: np.ndarray
    to_last: np.ndarray
    """‖K_t − K_T‖ / ‖K_T‖"""
    from_first: np.ndarray
    """‖K_t − K_0‖ / ‖K_0‖"""
    velocity: np.ndarray
    """Relative change of the kernel per step, since the step before."""
    residual: np.ndarray
    """‖f_t − y‖ / ‖f_0 − y‖ on the pool."""


TEACHERS: dict[str, Teacher] = {
    "full": teachers.full(),
    "attent": teachers.attent(selectors.top_k(), RATIO, INTERVAL, num_warmup_epochs=0),
    "random": teachers.attent(
        selectors.uniform(), RATIO, INTERVAL, num_warmup_epochs=0
    ),
}


def measure(scale: Scale, progress: Progress) -> list[Drift]:
    """Train each network once, and the first one under each teacher."""
    runs = [(network, "full") for network in scale.networks]
    runs += [(scale.networks[0], name) for name in TEACHERS if name != "full"]
    problem = make_problem(0, scale.num_pool, scale.num_probe, scale.num_tokens)
    learners = {  # made and compiled once for all teachers
        (width, num_layers, num_heads): make_learner(
            1, width=width, num_layers=num_layers, num_heads=num_heads
        )
        for width, num_layers, num_heads in scale.networks
    }
    return [
        _follow(problem, network, learners[network], teacher, scale.num_steps)
        for network, teacher in progress.track(runs, description="  trainings")
    ]


def _follow(problem, network, learner: Learner, teacher: str, num_steps: int) -> Drift:
    width, num_layers, num_heads = network
    learning_rate = stable_learning_rate(learner, problem) / 2
    descent = descend(learner, problem, TEACHERS[teacher])

    @jax.jit
    def residual_norm(params):
        return jnp.linalg.norm(learner.outputs_fn(params, problem.x) - problem.y)

    tracker = KernelTracker(
        lambda params: learner.kernel_fn(params, problem.probe),
        residual_fn=residual_norm,
    )
    training, done = descent.init(learner.params), 0
    late = np.linspace(num_steps / 2, num_steps, 7).astype(int).tolist()
    for step in sorted({*log_spaced(num_steps), *late}):
        training = descent.run(training, learning_rate, step - done)
        done = step
        tracker(step, training.params)
    columns = zip(*tracker.records(), strict=True)
    found = dict(zip(tracker.records()[0]._fields, map(np.array, columns), strict=True))
    return Drift(
        network=f"width {width}, {num_layers} layer{'s'[: num_layers > 1]}, "
        f"{num_heads} head{'s'[: num_heads > 1]}",
        teacher=teacher,
        steps=found["step"],
        to_last=found["distance_to_last"],
        from_first=found["distance_from_first"],
        velocity=found["velocity"],
        residual=found["residual_norm"] / found["residual_norm"][0],
    )


def draw(data: list[Drift]) -> Figure:
    """Draw distances over steps by network and by teacher, and the velocity."""
    figure = new_figure(12, 9)
    panels = figure.subplots(2, 2).ravel()
    full = [run for run in data if run.teacher == "full"]
    first = [run for run in data if run.network == data[0].network]
    inner = slice(1, -1)  # log axes: without step 0, and the distance 0 at the last
    for axes, runs, key in (
        (panels[0], full, "network"),
        (panels[1], first, "teacher"),
    ):
        for number, run in enumerate(runs):
            label = getattr(run, key)
            colour = colour_of(label, number)
            axes.loglog(run.steps[inner], run.to_last[inner], color=colour, label=label)
            axes.loglog(
                run.steps[inner], run.residual[inner], "--", color=colour, alpha=0.6
            )
        axes.set(ylabel="solid ‖K_t − K_T‖/‖K_T‖, dashed ‖f − y‖/‖f₀ − y‖")
        axes.legend(title=key, fontsize=8)
    panels[0].set(title="Distance to the last kernel, and residual: full training")
    panels[1].set(title=f"… and under teaching ({data[0].network})")
    for run in data:
        style = "-" if run.teacher == "full" else ":"
        label = f"{run.network}, {run.teacher}"
        panels[2].semilogx(run.steps[1:], run.from_first[1:], style, label=label)
        panels[3].loglog(run.steps[1:], velocity_per_residual(run), style, label=label)
    panels[2].set(ylabel="‖K_t − K_0‖/‖K_0‖", ylim=(0, None))
    panels[2].set(title="Distance from the first kernel")
    panels[3].set(ylabel="relative velocity per step / relative residual")
    panels[3].set(title="Velocity of the kernel per remaining residual")
    panels[3].legend(fontsize=7)
    for axes in panels:
        axes.set(xlabel="step")
        axes.grid(alpha=0.3)
    return figure


def judge(data: list[Drift]) -> list[Finding]:
    """It converges if it is within 1 % of its limit from half-way on.

    Training that still has 1 % of its residual is inconclusive.
    """
    trained = all(run.residual[-1] < 0.01 for run in data)
    is_late = data[0].steps >= data[0].steps[-1] / 2
    is_late[-1] = False  # 0 by construction
    late = [run.to_last[is_late].max() for run in data]
    moved = [run.from_first[-1] for run in data]
    rates = np.array([velocity_per_residual(run)[[0, -1]] for run in data])
    return [
        Finding(
            claim="The kernel on held-out sequences converges as training does "
            "(Theorem 3), under full training, AtteNT and random subsets.",
            measured=f"From half of the {data[0].steps[-1]} steps on ({is_late.sum()} "
            f"kernels), K_t is within {max(late):.1e} of K_T in all {len(data)} "
            f"trainings, having moved {min(moved):.2f} to {max(moved):.2f} of ‖K_0‖; "
            f"the residual fell to {max(run.residual[-1] for run in data):.1e} of its "
            f"start or less. Velocity per residual goes from {rates[:, 0].min():.1g} "
            f"to {rates[:, 0].max():.1g} at first to {rates[:, 1].min():.1g} to "
            f"{rates[:, 1].max():.1g} at last: unless it vanishes, an early stop or a "
            f"decayed learning rate would look like convergence too.",
            verdict=("holds" if max(late) < 0.01 else "fails")
            if trained
            else "inconclusive",
        ),
    ]


def velocity_per_residual(run: Drift) -> np.ndarray:
    """`[steps - 1]` between records, where a residual decays exponentially."""
    before, after = run.residual[:-1], run.residual[1:]
    mean = (before - after) / np.log(before / after)
    return run.velocity[1:] / mean
