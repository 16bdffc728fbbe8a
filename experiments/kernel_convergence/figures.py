"""The figures by name; each is a module of this package."""

import time
from collections.abc import Mapping

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
from experiments.kernel_convergence.findings import FigureModule, Scale
from experiments.study.claims import MeasuredFigure
from experiments.study.plots import to_png

FIGURES: Mapping[str, FigureModule] = {
    "drift": drift,
    "consistency": consistency,
    "loss_decrease": loss_decrease,
    "canonical": canonical,
    "greedy": greedy,
    "lazy_rich": lazy_rich,
    "importance": importance,
    "finite_width": finite_width,
}


def make(name: str, scale: Scale, progress: Progress) -> tuple[MeasuredFigure, bytes]:
    """Measure, judge and draw; returns the picture too."""
    start = time.perf_counter()
    module = FIGURES[name]
    tasks_before = set(progress.task_ids)
    data = module.measure(scale, progress)
    for task in set(progress.task_ids) - tasks_before:
        progress.remove_task(task)
    picture = to_png(module.draw(data))
    seconds = time.perf_counter() - start
    figure = MeasuredFigure(
        name, module.__doc__ or "", module.judge(data), seconds, data
    )
    return figure, picture
