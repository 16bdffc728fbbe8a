"""Figures of a study."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.study.workdir import write_atomically

DPI = 100
_COLOURS = {
    "full": "black",
    "full-short": "tab:gray",
    "random": "tab:blue",
    "random-fresh": "tab:cyan",
    "balanced": "tab:green",
    "attent-soft": "tab:orange",
    "attent-hard": "tab:purple",
    "recommended": "tab:red",
    "in-batch": "tab:brown",
}


_OTHERS = ("tab:pink", "tab:olive", "navy", "magenta", "teal", "gold")


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that needs no screen and lays itself out."""
    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure) -> bytes:
    """The picture's file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def colour_of(method: str, number: int) -> str:
    """A method's colour in all figures; others have one by their number."""
    return _COLOURS.get(method, _OTHERS[number % len(_OTHERS)])


class Curve(NamedTuple):
    """Held-out quality over a run."""

    costs: Sequence[float]
    """In trained examples."""
    qualities: Sequence[float]


def quality_against_cost(
    curves: Mapping[str, Sequence[Curve]], path: Path, *, ylabel: str, title: str
) -> None:
    """Draw one line per method: the mean over seeds, ± 1 standard deviation.

    Args:
      curves: by method, one curve per seed.
      path: the image file.
      ylabel: the quality, with its unit.
      title: the figure's title.
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()
    finals = []
    for number, (method, runs) in enumerate(curves.items()):
        costs = np.mean([run.costs for run in runs], axis=0) / 1000
        qualities = np.array([run.qualities for run in runs])
        mean, spread = qualities.mean(axis=0), qualities.std(axis=0, ddof=len(runs) > 1)
        finals.append(mean[-1])
        colour = colour_of(method, number)
        axes.plot(costs, mean, "o-", color=colour, label=method, markersize=4)
        axes.fill_between(costs, mean - spread, mean + spread, color=colour, alpha=0.15)
    axes.set(xlabel="cost in thousand trained examples, scoring included")
    is_cut = _keep_apart(axes, finals)
    axes.set(ylabel=ylabel + ", axis cut" * is_cut, title=title)
    axes.grid(alpha=0.3)
    axes.legend(title="mean ± 1 std over seeds", framealpha=0.6)
    write_atomically(path, to_png(figure))


def _keep_apart(axes: Axes, finals: Sequence[float]) -> bool:
    """Cut the y-axis where starts or an outlier would press the other ends together.

    Returns whether it was cut.
    """
    median = np.median(finals)
    reach = 10 * np.median(np.abs(np.array(finals) - median))
    low, high = axes.get_ylim()
    if reach == 0 or (median - reach <= low and high <= median + reach):
        return False
    axes.set_ylim(max(low, median - reach), min(high, median + reach))
    return True


class Choice(NamedTuple):
    """Which examples a run taught in which epoch."""

    costs: Float[np.ndarray, "epochs"]
    """`[epochs]` the cost at each epoch's end."""
    taught: Bool[np.ndarray, "epochs pool"]
    """`[epochs, pool]`"""


def chosen_examples(
    choices: Mapping[str, Choice],
    labels: Int[np.ndarray, "pool"],
    names: Sequence[str],
    path: Path,
    *,
    rows_per_group: int = 12,
) -> None:
    """Draw examples over epochs, a panel per method: black where one was taught.

    Examples are shown by group, the largest at the top. A few of each group are
    shown, evenly spaced by how often they were taught.

    Args:
      choices: by method.
      labels: `[pool]` each example's group.
      names: names of the groups.
      path: the image file.
      rows_per_group: examples shown per group (smaller groups get thicker rows).
    """
    counts = np.bincount(labels, minlength=len(names))
    groups = [c for c in np.argsort(-counts, kind="stable") if counts[c]]
    figure = new_figure(2 + 2.6 * len(choices), 8)
    panels = figure.subplots(1, len(choices), sharey=True, squeeze=False)
    for axes, (method, choice) in zip(panels[0], choices.items(), strict=True):
        times = choice.taught.sum(axis=0)
        drawn = []
        for label in groups:
            members = np.flatnonzero(labels == label)
            members = members[np.argsort(-times[members], kind="stable")]
            drawn.extend(
                members[
                    np.linspace(0, len(members) - 1, rows_per_group).round().astype(int)
                ]
            )
        edges = np.concatenate([[0], choice.costs]) / 1000
        axes.pcolormesh(
            edges,
            np.arange(len(drawn) + 1) / rows_per_group,
            choice.taught[:, drawn].T,
            cmap="Greys",
            rasterized=True,
        )
        axes.hlines(range(len(groups)), 0, edges[-1], color="tab:red", linewidth=0.3)
        axes.set(title=method, xlabel="cost / 1000 examples")
    panels[0, 0].set_yticks(
        np.arange(len(groups)) + 0.5, [f"{names[c]} ({counts[c]:,})" for c in groups]
    )
    panels[0, 0].set_ylabel("examples, by group (number in the pool)")
    panels[0, 0].invert_yaxis()
    figure.suptitle("Which examples were taught in which epoch (black: taught)")
    write_atomically(path, to_png(figure))
