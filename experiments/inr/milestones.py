"""Quality at given iterations, and time to a given quality, beside the paper's."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.inr.rules import ITERATIONS
from experiments.study.page import markdown_table
from experiments.study.paired_statistics import methods_of
from experiments.study.records import Job, Study
from experiments.study.report import PHASES

AT_ITERATIONS = (250, 1_000, 5_000)
TARGETS = (30.0, 35.0)
"""In decibels."""

PAPER = {
    "full": (27.90, 31.67, 39.76, 49.1, 184.8),
    "int": (27.57, 31.19, 39.02, None, None),
    "evos-like": (28.02, 31.72, 37.56, None, None),
    "nint": (28.96, 32.64, 39.09, 25.1, 102.9),
}
"""arXiv 2511.15487, of pictures: PSNR at `AT_ITERATIONS`, seconds to `TARGETS`. Its
network, its pictures and its machine are others than ours; its EVOS is the authors'."""


class Trajectory(NamedTuple):
    """The declared measure over one run."""

    iterations: Float[np.ndarray, "evaluations"]
    seconds: Float[np.ndarray, "evaluations"]
    """Training with its scoring and selection, without evaluation and compilation."""
    qualities: Float[np.ndarray, "evaluations"]

    def at(self, iteration: int) -> float:
        """The quality, interpolated between evaluations; NaN outside of them."""
        return float(
            np.interp(iteration, self.iterations, self.qualities, np.nan, np.nan)
        )

    def seconds_to(self, target: float) -> float:
        """When the quality is reached first, interpolated; NaN if it is not."""
        reached = np.flatnonzero(self.qualities >= target)
        if not len(reached):
            return np.nan
        last = reached[0] + 1
        if last == 1:
            return float(self.seconds[0])
        return float(
            np.interp(
                target,
                self.qualities[last - 2 : last],
                self.seconds[last - 2 : last],
            )
        )


def trajectory(job: Job, measure: str) -> Trajectory:
    """A run's trajectory. All its iterations take equally long."""
    lines = [line for line in job.lines("measures") if measure in line["measures"]]
    steps = np.array([line["step"] for line in lines])
    seconds = sum(job.result.seconds.get(phase, 0.0) for phase in PHASES)
    return Trajectory(
        steps * float(ITERATIONS),
        seconds * steps / job.result.num_steps,
        np.array([line["measures"][measure] for line in lines], float),
    )


def is_of_pictures(study: Study) -> bool:
    """Whether pictures are learnt, as in the paper's table; sounds have a PSNR too."""
    return "ssim" in study.results[0].measures


def milestones(study: Study) -> str:
    """The table: ours, and below it the paper's row where it has one."""
    has_paper = is_of_pictures(study)
    head = ["method", *(f"PSNR at {n:,} iterations" for n in AT_ITERATIONS)]
    head += [f"s to {target:g} dB" for target in TARGETS] + ["ms an iteration"]
    table = [head]
    for method in methods_of(study.results):
        own = [
            trajectory(job, "psnr") for job in study.jobs if job.result.method == method
        ]
        row = [_mean([run.at(n) for run in own], "dB") for n in AT_ITERATIONS]
        row += [_mean([run.seconds_to(t) for run in own], "s") for t in TARGETS]
        pace = np.mean([run.seconds[-1] / run.iterations[-1] for run in own])
        table.append([method, *row, f"{1e3 * pace:.2f}"])
        if has_paper and method in PAPER:
            cells = ["–" if cell is None else f"{cell:g}" for cell in PAPER[method]]
            table.append(["– the paper's", *cells, ""])
    return markdown_table(table)


def _mean(values: Sequence[float], unit: str) -> str:
    """The mean of all runs; of some, with their number."""
    reached = [value for value in values if np.isfinite(value)]
    if not reached:
        return "not reached"
    text = f"{np.mean(reached):.2f}" if unit == "dB" else f"{np.mean(reached):.1f}"
    is_all = len(reached) == len(values)
    return text if is_all else f"{text} ({len(reached)} of {len(values)})"
