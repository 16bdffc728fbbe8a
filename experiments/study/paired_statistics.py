"""Methods against their controls, in paired runs.

A method is *non-inferior* if the 95 % interval of its difference from full training
lies above −δ, where δ is stated in advance. It *wins* if it is non-inferior at lower
cost and above all equal-cost controls, in at least `MIN_SEEDS` paired runs. It has *no
advantage* if it is not above all controls. "Above" means that the 95 % interval of the
paired difference lies above 0. With fewer runs it is *undecided*, unless it is below a
control. For a measure of which less is better, signs are exchanged.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from experiments.study.workload import Objective

MIN_SEEDS = 10
"""Paired runs that a win needs."""
REQUIRED_CONTROLS = ("full-short", "random", "random-fresh")

Role = Literal["reference", "control", "method"]


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run achieved, and at what cost."""

    method: str
    role: Role
    seed: int
    measures: dict[str, float]
    """The last evaluation's, and the final evaluation's."""
    cost: float
    """In trained examples; a score counts its share of one."""
    flops: float
    """FLOPs of training and scoring, as XLA counts them."""
    seconds: dict[str, float]
    """Wall time by phase: start, train, score, select, evaluate, save, compile."""
    num_steps: int
    num_skipped: int
    """Steps whose loss or gradient was not finite."""
    learning_rate: float
    """The peak."""


class Difference(NamedTuple):
    """A paired difference over seeds."""

    mean: float
    low: float
    """The ends of the 95 % interval; NaN for fewer than two pairs."""
    high: float
    num_seeds: int

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def difference(
    results: Sequence[Result], method: str, other: str, measure: str
) -> Difference | None:
    """`method` − `other` over the seeds that both have, with Student's t interval.

    Returns None if they share no seed.
    """
    ours, theirs = by_seed(results, method, measure), by_seed(results, other, measure)
    deltas = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not deltas:
        return None
    mean = float(np.mean(deltas))
    if len(deltas) < 2 or not np.isfinite(deltas).all():
        return Difference(mean, np.nan, np.nan, len(deltas))
    error = np.std(deltas, ddof=1) / np.sqrt(len(deltas))
    half = float(special.stdtrit(len(deltas) - 1, 0.975) * error)
    return Difference(mean, mean - half, mean + half, len(deltas))


def verdict(results: Sequence[Result], method: str, objective: Objective) -> str:
    """What the results say of the method, by the declared objective."""
    roles = {result.method: result.role for result in results}
    if roles[method] != "method":
        return roles[method]
    references = [name for name, role in roles.items() if role == "reference"]
    controls = [name for name, role in roles.items() if role == "control"]
    if missing := [name for name in REQUIRED_CONTROLS if name not in controls]:
        return f"undecided: without {', '.join(missing)}"
    if not references:
        return "undecided: without full training"

    def advantage(other: str) -> Difference | None:
        delta = difference(results, method, other, objective.measure)
        if delta is None or objective.higher_is_better:
            return delta
        return Difference(-delta.mean, -delta.high, -delta.low, delta.num_seeds)

    over_controls = {name: advantage(name) for name in controls}
    over_full = advantage(references[0])
    found = {references[0]: over_full, **over_controls}
    for name, delta in found.items():
        if delta is None or delta.num_seeds < 2:
            return f"undecided: fewer than two seeds shared with {name}"
        if not np.isfinite([delta.mean, delta.low, delta.high]).all():
            return f"undecided: a measure of it or of {name} is not finite"
    assert over_full is not None
    num_seeds = min(d.num_seeds for d in found.values() if d is not None)
    advantages = {name: d for name, d in over_controls.items() if d is not None}
    is_above = all(d.low > 0 for d in advantages.values())
    is_below = any(d.high < 0 for d in advantages.values())
    is_non_inferior = over_full.low > -objective.margin
    least = min(advantages.values(), key=lambda d: d.high)
    if num_seeds < MIN_SEEDS and not is_below:
        return (
            f"undecided: {num_seeds} of {MIN_SEEDS} seeds; its advantage may be up to "
            f"{least.high:.2g} {objective.unit}"
        )
    cost = {name: mean_cost(results, name) for name in (method, references[0])}
    if not is_above:
        return "non-inferior, no advantage" if is_non_inferior else "no advantage"
    if is_non_inferior and cost[method] < cost[references[0]]:
        return "wins"
    return "above its controls, not shown non-inferior at lower cost"


def methods_of(results: Sequence[Result]) -> list[str]:
    """The methods, in order of their first result."""
    return list(dict.fromkeys(result.method for result in results))


def mean_cost(results: Sequence[Result], method: str) -> float:
    """The mean cost over seeds."""
    return float(np.mean([r.cost for r in results if r.method == method]))


def mean_std(
    results: Sequence[Result], method: str, measure: str
) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds (NaN from one seed)."""
    values = list(by_seed(results, method, measure).values())
    std = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return float(np.mean(values)), std


def by_seed(results: Sequence[Result], method: str, measure: str) -> dict[int, float]:
    """A method's measure by seed."""
    return {r.seed: r.measures[measure] for r in results if r.method == method}
