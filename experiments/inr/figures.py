"""The report's own pictures: trajectories, reconstructions, chosen coordinates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.inr.milestones import (
    Trajectory,
    is_of_pictures,
    milestones,
    trajectory,
)
from experiments.inr.rules import CONTROLS, ITERATIONS, RULES
from experiments.study.paired_statistics import methods_of
from experiments.study.plots import colour_of, new_figure, to_png
from experiments.study.records import Job, Study
from experiments.study.report import label_of
from experiments.study.workdir import write_atomically

_MOMENTS = 4
"""Evaluations that the coordinates are shown at."""
_BESIDE_PAPER = """\
Ours beside the paper's (arXiv 2511.15487), which has larger pictures and networks on
another machine: compare rows within a column, not numbers across."""
_INTERPOLATED = """\
Qualities are interpolated between evaluations. Times are training with its scoring and
selection, without evaluation and compilation."""
_COORDINATES = """\
White points are what each rule chooses at that moment, for the first seed. Scores of
NINT, if it was run, are the norm of the kernel times the error, and the error alone."""


def sections(study: Study, folder: Path) -> list[str]:
    """The report's sections that only this experiment has; draws their pictures."""
    shown: list[str] = []
    if "psnr" in study.results[0].measures:
        shown += ["## By iteration and by time", milestones(study)]
        shown += [_BESIDE_PAPER] if is_of_pictures(study) else []
        shown.append(_INTERPOLATED)
    draw = {"trajectories.png": _trajectories(study)}
    first = min(result.seed for result in study.results)
    jobs = {job.result.method: job for job in study.jobs if job.result.seed == first}
    snapshots = {method: job.snapshots() for method, job in jobs.items()}
    snapshots = {method: kept for method, kept in snapshots.items() if kept}
    if snapshots:
        draw["reconstructions.png"] = _reconstructions(snapshots, jobs)
        if any(name in snapshots for name in (*CONTROLS, *RULES)):
            draw["coordinates.png"] = _coordinates(snapshots)
    for name, figure in draw.items():
        write_atomically(folder / name, to_png(figure))
        shown.append(f"![{name}]({name})")
        if name == "coordinates.png":
            shown.append(_COORDINATES)
    return shown


def _trajectories(study: Study) -> Figure:
    """Quality by iteration and by time, means over seeds."""
    figure = new_figure(12, 5)
    by_iteration, by_time = figure.subplots(1, 2, sharey=True)
    objective = study.objective
    for number, method in enumerate(methods_of(study.results)):
        runs = [
            trajectory(job, objective.measure)
            for job in study.jobs
            if job.result.method == method
        ]
        style: dict[str, Any] = {"color": colour_of(method, number)}
        _draw_runs(by_iteration, [run.iterations for run in runs], runs, style, method)
        _draw_runs(by_time, [run.seconds for run in runs], runs, style, method)
    by_iteration.set(
        xlabel="iterations",
        ylabel=f"{label_of(objective.measure)} ({objective.unit})",
    )
    by_time.set(xlabel="seconds of training, scoring and selection")
    for axes in (by_iteration, by_time):
        axes.grid(alpha=0.3)
    by_time.legend(title="mean over seeds", framealpha=0.6)
    figure.suptitle(study.title)
    return figure


def _draw_runs(
    axes: Axes,
    places: Sequence[np.ndarray],
    runs: Sequence[Trajectory],
    style: Mapping[str, Any],
    label: str,
) -> None:
    qualities = np.mean([run.qualities for run in runs], axis=0)
    axes.plot(
        np.mean(places, axis=0), qualities, "o-", markersize=3, label=label, **style
    )


def _reconstructions(
    snapshots: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]],
    jobs: Mapping[str, Job],
) -> Figure:
    """The signal, every method's reconstruction at the end, and its error."""
    last = {method: kept[max(kept)] for method, kept in snapshots.items()}
    target = next(iter(last.values()))["signal"]
    figure = new_figure(2.2 * (len(last) + 1), 5)
    panels = figure.subplots(2, len(last) + 1, squeeze=False)
    show(panels[0, 0], target)
    panels[0, 0].set_title("signal")
    panels[1, 0].axis("off")
    errors = {method: _error(kept) for method, kept in last.items()}
    limit = max(float(np.quantile(error, 0.99)) for error in errors.values())
    for column, (method, kept) in enumerate(last.items(), start=1):
        show(panels[0, column], kept["reconstruction"])
        measures = jobs[method].result.measures
        name, value = next(iter(measures.items()))
        panels[0, column].set_title(f"{method}\n{name.upper()} {value:.2f}")
        show_map(panels[1, column], errors[method], limit=limit)
    panels[1, 1].set_ylabel("absolute error")
    return figure


def _coordinates(
    snapshots: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]],
) -> Figure:
    """What the rules choose over time, and the scores of NINT."""
    rules = [name for name in (*CONTROLS, *RULES) if name in snapshots]
    rows: list[tuple[str, str]] = [(name, "chosen") for name in rules]
    if "nint" in rules:
        rows += [("nint", "ntk"), ("nint", "error")]
    figure = new_figure(2.2 * _MOMENTS + 0.6, 2.3 * len(rows))
    panels = figure.subplots(len(rows), _MOMENTS, squeeze=False)
    for axes, (method, key) in zip(panels, rows, strict=True):
        kept = snapshots[method]
        steps = sorted(kept)
        moments = np.linspace(0, len(steps) - 1, _MOMENTS).round().astype(int)
        for panel, moment in zip(axes, moments, strict=True):
            shown = kept[steps[moment]][key].astype(np.float32)
            show_map(panel, shown, limit=float(np.quantile(shown, 0.99)) or 1.0)
            number = steps[moment] * ITERATIONS
            panel.set_title(f"{number:,} iterations", fontsize=8)
        axes[0].set_ylabel(method if key == "chosen" else f"{method}: {key} score")
    return figure


def _error(kept: Mapping[str, np.ndarray]) -> np.ndarray:
    difference = kept["reconstruction"].astype(np.float32) - kept["signal"]
    return np.sqrt(np.mean(np.square(difference), axis=-1))


def show(axes: Axes, values: np.ndarray) -> None:
    """A signal `[*grid, channels]`: a picture, a waveform or a slice of a shape."""
    values = values.astype(np.float32)
    if values.ndim == 3:
        axes.imshow(np.clip((values + 1) / 2, 0, 1), interpolation="nearest")
    elif values.ndim == 2:
        axes.plot(np.linspace(-1, 1, len(values)), values, linewidth=0.3)
        axes.set_ylim(-1.1, 1.1)
    else:
        middle = values[len(values) // 2, ..., 0].T
        axes.imshow(middle, cmap="RdBu", vmin=-1, vmax=1, origin="lower")
        axes.contour(middle, levels=[0.0], colors="black", linewidths=0.8)
    axes.set(xticks=[], yticks=[])


def show_map(axes: Axes, values: np.ndarray, *, limit: float) -> None:
    """A number of every coordinate `[*grid]`, from 0 to the limit."""
    if values.ndim == 1:
        size = min(200, len(values))
        parts = np.array_split(values, size)
        axes.fill_between(np.linspace(-1, 1, size), [part.mean() for part in parts])
        axes.set_ylim(0, None)
    else:
        shown = values if values.ndim == 2 else values[len(values) // 2].T
        origin = "upper" if values.ndim == 2 else "lower"
        axes.imshow(
            shown,
            cmap="gray",
            vmin=0,
            vmax=limit,
            origin=origin,
            interpolation="nearest",
        )
    axes.set(xticks=[], yticks=[])
