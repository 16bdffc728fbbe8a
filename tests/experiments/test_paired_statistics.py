"""The statistics and the verdicts of a study, against numbers worked by hand."""

import numpy as np
import pytest
from scipy import stats

from experiments.study.paired_statistics import (
    MIN_SEEDS,
    Result,
    Role,
    difference,
    mean_std,
    verdict,
)
from experiments.study.workload import Objective

ACCURACY = Objective("accuracy", "%", margin=0.25)
LOSS = Objective("loss", "nats", margin=0.25, higher_is_better=False)
FULL = np.array([90.0, 92.0, 91.0, 90.5, 91.5, 92.5, 90.2, 91.8, 92.1, 91.1])
NOISE = np.array([0.1, 0.0, -0.1, 0.05, -0.05, 0.1, 0.0, -0.1, 0.05, -0.05])
ROLES: dict[str, Role] = {"full": "reference", "method": "method"}


def results_of(cost=50.0, measure="accuracy", **qualities):
    return [
        Result(
            method=name.replace("_", "-"),
            role=ROLES.get(name, "control"),
            seed=seed,
            measures={measure: float(quality)},
            cost=100.0 if name == "full" else cost,
            flops=1e9,
            seconds={"train": 1.0, "score": 0.5, "select": 0.25},
            num_steps=10,
            num_skipped=0,
            learning_rate=1e-3,
        )
        for name, values in qualities.items()
        for seed, quality in enumerate(values)
    ]


def with_controls(method, controls, *, full=FULL, cost=50.0, measure="accuracy"):
    return results_of(
        cost,
        measure,
        full=full,
        full_short=controls,
        random=controls,
        random_fresh=controls,
        method=method,
    )


def test_differences_are_paired_by_seed_with_students_interval():
    results = results_of(full=[90.0, 92.0, 91.0], method=[91.0, 92.5, 92.0])
    # Unpaired, the standard error would be 0.73, not 0.167.
    half = float(stats.t.ppf(0.975, 2) * np.std([1.0, 0.5, 1.0], ddof=1) / 3**0.5)
    delta = difference(results, "method", "full", "accuracy")
    assert delta is not None
    np.testing.assert_allclose(delta, [5 / 6, 5 / 6 - half, 5 / 6 + half, 3])
    oracle = stats.ttest_rel([91.0, 92.5, 92.0], [90.0, 92.0, 91.0])
    interval = oracle.confidence_interval(0.95)
    np.testing.assert_allclose(delta[1:3], [interval.low, interval.high])


def test_differences_use_only_the_seeds_that_both_have():
    results = results_of(full=FULL, method=[91.0])
    delta = difference(results, "method", "full", "accuracy")
    assert delta is not None
    assert (delta.mean, delta.num_seeds) == (1.0, 1)
    assert np.isnan(delta.low)
    assert difference(results, "method", "absent", "accuracy") is None


@pytest.mark.parametrize(
    ("over_full", "over_controls", "cost", "word"),
    [
        (0.0, 1.0, 50.0, "wins"),
        # At full training's cost nothing is won.
        (0.0, 1.0, 100.0, "above its controls, not shown non-inferior at lower cost"),
        # Below full by more than the margin of 0.25.
        (-0.5, 1.0, 50.0, "above its controls, not shown non-inferior at lower cost"),
        (0.0, 0.0, 50.0, "non-inferior, no advantage"),
        (-1.0, 0.0, 50.0, "no advantage"),
        (-1.0, -1.0, 50.0, "no advantage"),
    ],
)
@pytest.mark.parametrize("objective", [ACCURACY, LOSS])
def test_verdicts_need_every_comparison(
    objective, over_full, over_controls, cost, word
):
    sign = 1 if objective.higher_is_better else -1
    results = with_controls(
        FULL + sign * over_full + NOISE,
        FULL + sign * (over_full - over_controls) - NOISE,
        cost=cost,
        measure=objective.measure,
    )
    assert verdict(results, "method", objective) == word


def test_one_control_that_is_not_beaten_denies_the_win():
    results = results_of(
        full=FULL,
        full_short=FULL - 1 + NOISE,
        random=FULL + NOISE,
        random_fresh=FULL - 1 + NOISE,
        method=FULL,
    )
    assert verdict(results, "method", ACCURACY) == "non-inferior, no advantage"
    assert verdict(results, "full", ACCURACY) == "reference"
    assert verdict(results, "random", ACCURACY) == "control"


def test_every_control_counts_also_one_that_is_not_required():
    results = [
        *with_controls(FULL + NOISE, FULL - 1),
        *results_of(balanced=FULL + 1),
    ]
    assert verdict(results, "method", ACCURACY) == "non-inferior, no advantage"


def test_too_few_seeds_decide_nothing_but_a_loss():
    few = MIN_SEEDS - 1
    full, noise = FULL[:few], NOISE[:few]
    above = with_controls(full + noise, full - 1, full=full)
    assert verdict(above, "method", ACCURACY).startswith(
        f"undecided: {few} of {MIN_SEEDS} seeds; its advantage may be up to 1."
    )
    equal = with_controls(full + noise, full, full=full)
    delta = difference(equal, "method", "random", "accuracy")
    assert delta is not None
    assert verdict(equal, "method", ACCURACY) == (
        f"undecided: {few} of {MIN_SEEDS} seeds; its advantage may be up to "
        f"{delta.high:.2g} %"
    )
    below = with_controls(full - 1, full + noise, full=full)
    assert verdict(below, "method", ACCURACY) == "no advantage"


def test_without_reference_controls_or_intervals_there_is_no_verdict():
    results = results_of(full=FULL, full_short=FULL, method=FULL)
    assert verdict(results, "method", ACCURACY) == (
        "undecided: without random, random-fresh"
    )
    results = [r for r in with_controls(FULL, FULL) if r.method != "full"]
    assert verdict(results, "method", ACCURACY) == "undecided: without full training"
    results = with_controls(FULL[:1], FULL[:1], full=FULL[:1])
    assert verdict(results, "method", ACCURACY) == (
        "undecided: fewer than two seeds shared with full"
    )


def test_spread_is_the_samples():
    three = results_of(full=[90.0, 92.0, 91.0])
    assert mean_std(three, "full", "accuracy") == (91.0, 1.0)
    assert np.isnan(mean_std(results_of(full=FULL[:1]), "full", "accuracy")[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_measure_that_is_not_finite_decides_nothing(bad):
    method = FULL + 2 + NOISE
    method[3] = bad
    results = with_controls(method, FULL - 1)
    assert verdict(results, "method", ACCURACY) == (
        "undecided: a measure of it or of full is not finite"
    )
