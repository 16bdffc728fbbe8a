"""Does a finite network's kernel approach the analytic one? (Hron et al., 2020)

The ANTK at initialisation of attention layers with w heads of size w is compared with
the limit that neural-tangents computes (1/k logits, W_Q = W_K).
"""

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.kernel_convergence.findings import Scale
from experiments.study.claims import Finding
from experiments.study.plots import new_figure
from theory.infinite_width import WidthConvergence, finite_width_convergence


def measure(scale: Scale, progress: Progress) -> WidthConvergence:
    """Monte Carlo over networks."""
    del progress  # one call
    return finite_width_convergence(
        jax.random.normal(jax.random.key(0), (4, scale.num_tokens, 6), float),
        widths=scale.limit_widths,
        num_seeds=scale.layer_seeds,
        rng=jax.random.key(1),
    )


def draw(data: WidthConvergence) -> Figure:
    """Distance from the limit over width, log axes."""
    figure = new_figure(6.5, 4.5)
    axes = figure.subplots()
    for row in data.errors:
        axes.loglog(data.widths, row, ".", color="C0", alpha=0.4)
    mean = data.errors.mean(axis=0)
    label = f"one network (mean of {len(data.errors)}): slope {data.slope:.2f}"
    axes.loglog(data.widths, mean, "o-", color="C0", label=label)
    label = f"mean kernel of {len(data.errors)} networks"
    axes.loglog(data.widths, data.error_of_mean, "s--", color="C1", label=label)
    guide = mean[0] * data.widths[0] / np.array(data.widths)
    axes.loglog(data.widths, guide, "k:", label="slope −1: 1/√(heads × size)")
    axes.set(
        xlabel="width w: heads, and size of each",
        ylabel="‖K_w − K_∞‖ / ‖K_∞‖",
        title="Finite width against the analytic attention kernel",
    )
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def judge(data: WidthConvergence) -> list[Finding]:
    """The error is one over the root of the number of units: slope −1 in w."""
    return [
        Finding(
            claim="The kernel of a network at initialisation approaches the analytic "
            "one as 1/√(number of units).",
            measured=f"Relative distance {data.errors[:, 0].mean():.2f} at width "
            f"{data.widths[0]} to {data.errors[:, -1].mean():.3f} at "
            f"{data.widths[-1]}: slope {data.slope:.2f} in w, the units being w².",
            verdict="holds" if -1.3 < data.slope < -0.8 else "fails",
        )
    ]
