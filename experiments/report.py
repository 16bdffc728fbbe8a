"""Report of a comparison, in Markdown and JSON."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.comparison import (
    EQUAL_COST_CONTROLS,
    FULL,
    Row,
    difference,
    mean_std,
    methods_of,
    verdict,
)
from experiments.workdir import to_json_text

_VERDICTS = """\
A method is **non-inferior** if the 95 % interval of its paired difference from full
training lies above −{margin:g} points. It **wins** if it is non-inferior at lower cost
and above all equal-cost controls ({controls}). It has **no advantage** if it is not
above all controls, that is if the interval of one of those differences includes 0 or
lies below. {intervals} The margin was set in advance.
"""

_PHASES = ("train", "score", "select")
"""The parts of a method's wall time, without evaluation and compilation."""
_COSTS = (
    "cost_examples",
    "flops",
    *(f"wall_{phase}_s" for phase in _PHASES),
    "wall_eval_s",
    "wall_save_s",
    "compile_s",
)


def summarize(rows: Sequence[Row], margin: float) -> list[dict[str, Any]]:
    """One entry per method: means over seeds, differences, the verdict."""
    methods = methods_of(rows)
    summary = []
    for method in methods:
        own = [row for row in rows if row.method == method]
        mean, std = mean_std(rows, method)
        summary.append(
            {
                "method": method,
                "verdict": verdict(rows, method, margin),
                "num_seeds": len(own),
                "quality_mean": mean,
                "quality_std": std,
                "details": {
                    name: mean_std(rows, method, name) for name in own[0].details
                },
                "means": {
                    name: float(np.mean([getattr(row, name) for row in own]))
                    for name in _COSTS
                },
                "differences": {
                    other: delta._asdict()
                    for other in methods
                    if other != method
                    and (delta := difference(rows, method, other)) is not None
                },
            }
        )
    return summary


def to_json(rows: Sequence[Row], margin: float, **about: Any) -> str:
    """The report in JSON; NaN (no interval from one seed) becomes null."""
    report = {
        **about,
        "margin": margin,
        "summary": summarize(rows, margin),
        "rows": [row.flat() for row in rows],
    }
    return to_json_text(report)


def to_markdown(
    rows: Sequence[Row], margin: float, *, title: str, text: str, figures: Sequence[str]
) -> str:
    """The report in Markdown: the table, the differences, the figures."""
    summary = summarize(rows, margin)
    details = list(summary[0]["details"])
    walls = {entry["method"]: _wall(entry["means"]) for entry in summary}
    costs = [
        [
            "method",
            "verdict",
            "accuracy %",
            *(f"{name.replace('_', ' ')} %" for name in details),
            "examples",
            "GFLOP",
            "wall s (of full)",
            "= train + score + select",
            "eval s",
            "compile s",
        ]
    ]
    for entry in summary:
        means, wall = entry["means"], walls[entry["method"]]
        of_full = f" ({wall / walls[FULL]:.2f})" if FULL in walls else ""
        parts = (means[f"wall_{part}_s"] for part in _PHASES)
        costs.append(
            [
                entry["method"],
                entry["verdict"],
                _pm(entry["quality_mean"], entry["quality_std"]),
                *(_pm(*entry["details"][name], digits=1) for name in details),
                f"{means['cost_examples']:,.0f}",
                f"{means['flops'] / 1e9:,.0f}",
                f"{wall:.1f}{of_full}",
                " + ".join(f"{part:.2f}" for part in parts),
                f"{means['wall_eval_s']:.1f}",
                f"{means['compile_s']:.1f}",
            ]
        )
    others = [
        name for name in (FULL, *EQUAL_COST_CONTROLS, "balanced") if name in walls
    ]
    differences = [["accuracy points", *(f"− {other}" for other in others)]]
    for method in walls:
        deltas = (
            difference(rows, method, other) if method != other else None
            for other in others
        )
        differences.append([method, *("" if d is None else str(d) for d in deltas)])
    seeds = sorted({entry["num_seeds"] for entry in summary})
    sections = [
        f"# {title}",
        text,
        _markdown_table(costs),
        "## Paired differences, row − column, with 95 % intervals",
        _markdown_table(differences),
        "## How to read the verdicts",
        _VERDICTS.format(
            controls=", ".join(EQUAL_COST_CONTROLS),
            margin=margin,
            intervals=_intervals(seeds),
        ),
        *(f"![{name}]({name})" for name in figures),
    ]
    return "\n\n".join(sections) + "\n"


def _intervals(seeds: Sequence[int]) -> str:
    if max(seeds) < 2:
        return "One seed gives no interval, so every method is undecided."
    return f"Intervals are Student's t over {'–'.join(map(str, seeds))} seeds."


def _wall(means: dict[str, float]) -> float:
    return sum(means[f"wall_{phase}_s"] for phase in _PHASES)


def _pm(mean: float, std: float, digits: int = 2) -> str:
    if math.isnan(std):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def _markdown_table(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
