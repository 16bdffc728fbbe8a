"""Methods against their controls, in paired runs.

A method is *non-inferior* if the 95 % interval of its difference from full training
lies above −δ, where δ is stated in advance. It *wins* if it is non-inferior at lower
cost and above all equal-cost controls. It has *no advantage* if it is not above all
controls. "Above" means that the 95 % interval of the paired difference lies above 0.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

FULL = "full"
EQUAL_COST_CONTROLS = ("full-short", "random", "random-fresh")


@dataclasses.dataclass(frozen=True)
class Row:
    """One training run."""

    method: str
    seed: int
    quality: float
    """Higher is better."""
    wall_train_s: float
    wall_score_s: float
    wall_select_s: float
    wall_eval_s: float
    compile_s: float
    cost_examples: float
    """Examples trained on, plus a third per example scored."""
    flops: float
    """FLOPs of training and scoring, as XLA counts them."""
    details: dict[str, float] = dataclasses.field(default_factory=dict)
    """Further measures of quality, by name."""
    wall_save_s: float = 0.0
    """Time that checkpoints stall training."""

    def flat(self) -> dict[str, float | int | str]:
        """All fields and details by name."""
        fields = {
            name: value for name, value in vars(self).items() if name != "details"
        }
        return fields | self.details


class Difference(NamedTuple):
    """A paired difference over seeds."""

    mean: float
    low: float
    """The ends of the 95 % interval; NaN for fewer than two pairs."""
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def difference(
    rows: Sequence[Row], method: str, other: str, measure: str = "quality"
) -> Difference | None:
    """`method` − `other` over the seeds that both have, with Student's t interval.

    Returns None if they share no seed.
    """
    ours, theirs = _by_seed(rows, method, measure), _by_seed(rows, other, measure)
    deltas = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not deltas:
        return None
    mean = float(np.mean(deltas))
    if len(deltas) < 2:
        return Difference(mean, np.nan, np.nan)
    margin = stats.t.ppf(0.975, len(deltas) - 1) * stats.sem(deltas)
    return Difference(mean, mean - float(margin), mean + float(margin))


def verdict(rows: Sequence[Row], method: str, margin: float) -> str:
    """The method's verdict, for the non-inferiority margin δ = `margin`."""
    if method == FULL:
        return "reference"
    if method in EQUAL_COST_CONTROLS:
        return "control"
    to_full = difference(rows, method, FULL)
    to_controls = [difference(rows, method, c) for c in EQUAL_COST_CONTROLS]
    compared = [to_full, *to_controls]
    if any(d is None or np.isnan(d.low) for d in compared):
        return "undecided"
    cost = {name: mean_std(rows, name, "cost_examples")[0] for name in (method, FULL)}
    is_cheaper = cost[method] < cost[FULL]
    is_above_controls = all(d is not None and d.low > 0 for d in to_controls)
    is_non_inferior = to_full is not None and to_full.low > -margin
    if is_above_controls:
        if is_non_inferior and is_cheaper:
            return "wins"
        return "above its controls, not shown non-inferior at lower cost"
    return "non-inferior, no advantage" if is_non_inferior else "no advantage"


def methods_of(rows: Sequence[Row]) -> list[str]:
    """The methods, in order of their first row."""
    return list(dict.fromkeys(row.method for row in rows))


def mean_std(
    rows: Sequence[Row], method: str, measure: str = "quality"
) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds (NaN from one seed)."""
    values = list(_by_seed(rows, method, measure).values())
    return float(np.mean(values)), float(np.std(values, ddof=1)) if values[
        1:
    ] else np.nan


def _by_seed(rows: Sequence[Row], method: str, measure: str) -> dict[int, float]:
    return {
        row.seed: float(row.flat()[measure]) for row in rows if row.method == method
    }
