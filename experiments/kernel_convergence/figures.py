"""The figures by name; each is a module of this package."""

import time
from collections.abc import Mapping
from pathlib import Path

from rich.progress import Progress

from experiments.kernel_convergence import (
    canonical,
    consistency,
    drift,
    finite_width,
    greedy,
    importance,
    lazy_rich,
    loss_decrease,
)
from experiments.kernel_convergence.findings import Scale, Study
from experiments.kernel_convergence.report import Outcome

STUDIES: Mapping[str, Study] = {
    "drift": drift,
    "consistency": consistency,
    "loss_decrease": loss_decrease,
    "canonical": canonical,
    "greedy": greedy,
    "lazy_rich": lazy_rich,
    "importance": importance,
    "finite_width": finite_width,
}


def make(name: str, scale: Scale, folder: Path, progress: Progress) -> Outcome:
    """Measure, draw into the folder, and judge."""
    start = time.perf_counter()
    study = STUDIES[name]
    tasks_before = set(progress.task_ids)
    data = study.measure(scale, progress)
    for task in set(progress.task_ids) - tasks_before:
        progress.remove_task(task)
    study.draw(data).savefig(folder / f"{name}.png", dpi=80)
    seconds = time.perf_counter() - start
    return Outcome(name, study.__doc__ or "", data, study.judge(data), seconds)
