"""Reports of stored results, in Markdown, JSON and pictures."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.study import plots
from experiments.study.claims import write_claims_report
from experiments.study.page import json_page, markdown_page, markdown_table
from experiments.study.paired_statistics import (
    MIN_SEEDS,
    Result,
    difference,
    mean_std,
    methods_of,
    verdict,
)
from experiments.study.records import (
    Study,
    completed_jobs,
    has_all_jobs,
    read_config,
    read_study,
)
from experiments.study.study import find_experiment
from experiments.study.workdir import write_atomically

_VERDICTS = """\
Verdicts are about {measure}, which was declared before any run{reason}. A method is
**non-inferior** if the 95 % interval of its paired difference from full training lies
{side}{margin:g} {unit}. It **wins** if it is non-inferior at lower cost and {better}
all controls ({controls}), in at least {min_seeds} paired runs. It has **no advantage**
if it is not shown {better} all controls. It is **undecided** where there are too few
runs. {intervals} A verdict on another measure would be an observation only.
"""
PHASES = ("train", "score", "select")
"""The parts of a method's wall time, without evaluation and compilation."""


def write_report(folders: Sequence[Path], out: Path) -> str | None:
    """Write report.md, report.json and the pictures of stored results.

    Args:
      folders: the parts of one experiment.
      out: the folder to write to.

    Returns:
      The Markdown report; None if there is no result yet.
    """
    config = read_config(folders)
    if not completed_jobs(folders):
        return None
    is_done = has_all_jobs(folders)
    if "figures" in config:
        return write_claims_report(folders, out, is_complete=is_done)
    study = read_study(folders)
    pictures = _draw(study, out)
    markdown = to_markdown(
        study,
        figures=pictures,
        more=_own_sections(study, out),
        is_complete=is_done,
    )
    write_atomically(out / "report.md", markdown)
    write_atomically(out / "report.json", to_json(study, is_complete=is_done))
    return markdown


def _draw(study: Study, folder: Path) -> list[str]:
    """Draw the pictures; returns their names."""
    pictures = ["quality.png"]
    plots.quality_against_cost(
        _curves(study),
        folder / pictures[0],
        ylabel=f"{label_of(study.objective.measure)} ({study.objective.unit})",
        title=study.title,
    )
    if choices := _choices(study):
        pictures.append("chosen.png")
        labels = study.labels[min(study.labels)]
        names = study.groups or [str(label) for label in range(labels.max() + 1)]
        plots.chosen_examples(choices, labels, names, folder / pictures[1])
    return pictures


def _own_sections(study: Study, folder: Path) -> list[str]:
    """The sections that only this experiment has; draws their pictures."""
    try:
        experiment = find_experiment(study.config["experiment"])
    except ValueError:
        return []  # not of this project
    return experiment.sections(study, folder) if experiment.sections else []


def _curves(study: Study) -> dict[str, list[plots.Curve]]:
    curves = defaultdict(list)
    for job in study.jobs:
        evaluations = job.evaluations(study.objective.measure)
        costs, qualities = zip(*evaluations, strict=True)
        curves[job.result.method].append(plots.Curve(costs, qualities))
    return curves


def _choices(study: Study) -> dict[str, plots.Choice]:
    """The methods that taught a part of the pool, for a seed whose groups are known."""
    choices = {}
    for job in study.jobs:
        result = job.result
        if not study.labels or result.seed != min(study.labels):
            continue
        epochs, size = job.lines("num_taught"), len(study.labels[result.seed])
        is_whole = all(epoch["num_selected"] == size for epoch in epochs)
        if is_whole and result.role != "method":
            continue
        taught = np.zeros((len(epochs), size), bool)
        for row, ids in zip(taught, job.taught(), strict=True):
            row[ids] = True
        costs = np.array([epoch["cost"] for epoch in epochs])
        choices[result.method] = plots.Choice(costs, taught)
    return choices


def summarize(study: Study) -> list[dict[str, Any]]:
    """One entry per method: means over seeds, differences, the verdict."""
    results, target = study.results, _target(study)
    methods = methods_of(results)
    summary = []
    for method in methods:
        own = [result for result in results if result.method == method]
        measures = own[0].measures
        summary.append(
            {
                "method": method,
                "verdict": verdict(results, method, study.objective),
                "num_seeds": len(own),
                "learning_rate": own[0].learning_rate,
                "measures": {
                    name: mean_std(results, method, name) for name in measures
                },
                "cost": float(np.mean([result.cost for result in own])),
                "flops": float(np.mean([result.flops for result in own])),
                "seconds": {
                    phase: float(np.mean([r.seconds.get(phase, 0.0) for r in own]))
                    for phase in (*PHASES, "evaluate", "save", "start", "compile")
                },
                "cost_to_target": _cost_to_target(study, method, target),
                "differences": {
                    name: {
                        other: delta._asdict()
                        for other in methods
                        if other != method
                        and (delta := difference(results, method, other, name))
                    }
                    for name in measures
                },
            }
        )
    return summary


def _target(study: Study) -> float | None:
    """The reference's mean, less the margin."""
    objective = study.objective
    reference = [r for r in study.results if r.role == "reference"]
    if not reference:
        return None
    mean, _ = mean_std(reference, reference[0].method, objective.measure)
    return mean - objective.margin * (1 if objective.higher_is_better else -1)


def _cost_to_target(study: Study, method: str, target: float | None) -> list[float]:
    """Of each run that reached it, the cost of the evaluation at which it had."""
    if target is None:
        return []
    sign = 1 if study.objective.higher_is_better else -1
    costs = []
    for job in study.jobs:
        if job.result.method == method:
            evaluations = job.evaluations(study.objective.measure)
            costs += [
                c for c, quality in evaluations if sign * (quality - target) >= 0
            ][:1]
    return costs


def to_json(study: Study, *, is_complete: bool) -> str:
    """The report in JSON."""
    return json_page(
        study.config,
        is_complete=is_complete,
        objective=study.objective,
        summary=summarize(study),
        rows=[
            {**vars(job.result), "environment": job.environment} for job in study.jobs
        ],
    )


def to_markdown(
    study: Study,
    *,
    figures: Sequence[str],
    more: Sequence[str] = (),
    is_complete: bool,
) -> str:
    """The report in Markdown: the table, the differences, the figures.

    Args:
      study: the results.
      figures: names of the pictures.
      more: sections that only this experiment has.
      is_complete: whether all jobs are completed.
    """
    summary, objective, results = summarize(study), study.objective, study.results
    measures = sorted(results[0].measures, key=lambda name: name != objective.measure)
    differences = []
    for measure in measures:
        differences += [
            f"### {label_of(measure)}{_DECLARED * (measure == objective.measure)}",
            _differences(results, measure),
        ]
    better = "above" if objective.higher_is_better else "below"
    controls = [e["method"] for e in summary if e["verdict"] == "control"]
    sections = [
        _main_table(study, summary, measures),
        *_skipped(results),
        "## Paired differences, row − column, with 95 % intervals",
        *differences,
        "## How to read the verdicts",
        _VERDICTS.format(
            measure=label_of(objective.measure),
            reason=f" ({objective.reason})" if objective.reason else "",
            side="above −" if objective.higher_is_better else "below +",
            margin=objective.margin,
            unit=objective.unit,
            better=better,
            controls=", ".join(controls) or "none was run",
            min_seeds=MIN_SEEDS,
            intervals=_intervals(sorted({entry["num_seeds"] for entry in summary})),
        ),
        *(f"![{name}]({name})" for name in figures),
        *more,
    ]
    return markdown_page(
        study.title,
        study.description,
        [job.environment for job in study.jobs],
        sections,
        is_complete=is_complete,
    )


_DECLARED = " (the declared objective)"


def _main_table(
    study: Study, summary: Sequence[dict[str, Any]], measures: Sequence[str]
) -> str:
    walls = {e["method"]: sum(e["seconds"][p] for p in PHASES) for e in summary}
    references = [e for e in summary if e["verdict"] == "reference"]
    target = _target(study)
    head = ["method", "verdict", *map(label_of, measures), "cost (examples)", "GFLOP"]
    head += ["wall s (of full)", "= train + score + select", "evaluate s", "compile s"]
    head += [] if target is None else [f"cost to reach {target:.4g}"]
    table = [head]
    for entry in summary:
        method, seconds, wall = (
            entry["method"],
            entry["seconds"],
            walls[entry["method"]],
        )
        of_full = (
            f" ({wall / walls[references[0]['method']]:.2f})" if references else ""
        )
        row = [
            method,
            entry["verdict"],
            *(_pm(*entry["measures"][measure]) for measure in measures),
            f"{entry['cost']:,.0f}",
            f"{entry['flops'] / 1e9:,.0f}",
            f"{wall:.1f}{of_full}",
            " + ".join(f"{seconds[phase]:.2f}" for phase in PHASES),
            f"{seconds['evaluate']:.1f}",
            f"{seconds['compile']:.1f}",
        ]
        if target is not None:
            row.append(_reached(entry["cost_to_target"], entry["num_seeds"]))
        table.append(row)
    return markdown_table(table)


def _skipped(results: Sequence[Result]) -> list[str]:
    """A sentence about steps whose loss or gradient was not finite, if there were."""
    found = [
        f"{result.method} (seed {result.seed}) {result.num_skipped} of "
        f"{result.num_steps}"
        for result in results
        if result.num_skipped
    ]
    return [f"Steps skipped as not finite: {', '.join(found)}."] if found else []


def _reached(costs: Sequence[float], num_seeds: int) -> str:
    if not costs:
        return "not reached"
    return f"{np.mean(costs):,.0f} ({len(costs)} of {num_seeds})"


def _differences(results: Sequence[Result], measure: str) -> str:
    methods = methods_of(results)
    roles = {result.method: result.role for result in results}
    others = [name for name in methods if roles[name] != "method"]
    table = [["", *(f"− {other}" for other in others)]]
    for method in methods:
        deltas = (
            difference(results, method, other, measure) if method != other else None
            for other in others
        )
        table.append([method, *("" if d is None else str(d) for d in deltas)])
    return markdown_table(table)


def _intervals(num_seeds: Sequence[int]) -> str:
    if max(num_seeds) < 2:
        return "One seed gives no interval, so every method is undecided."
    return f"Intervals are Student's t over {'–'.join(map(str, num_seeds))} seeds."


def label_of(measure: str) -> str:
    """The measure's name in a table."""
    return measure.replace("_", " ")


def _pm(mean: float, std: float) -> str:
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} ± {std:.2f}"
