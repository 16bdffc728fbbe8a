"""The statistics and the words of a comparison, against numbers worked by hand."""

import json

import numpy as np
import pytest
from scipy import stats

from experiments.comparison import Row, difference, mean_std, verdict
from experiments.report import to_json, to_markdown

FULL = [90.0, 92.0, 91.0]


def rows_of(cost=50.0, **qualities):
    return [
        Row(
            method=method.replace("_", "-"),
            seed=seed,
            quality=quality,
            wall_train_s=1.0,
            wall_score_s=0.5,
            wall_select_s=0.25,
            wall_eval_s=1.0,
            compile_s=1.0,
            cost_examples=100.0 if method == "full" else cost,
            flops=1e9,
            details={"macro_accuracy": quality - 10},
        )
        for method, values in qualities.items()
        for seed, quality in enumerate(values)
    ]


def test_differences_are_paired_by_seed_with_students_interval():
    rows = rows_of(full=FULL, method=[91.0, 92.5, 92.0])
    # Unpaired, the standard error would be 0.73, not 0.167.
    margin = float(stats.t.ppf(0.975, 2) * np.std([1.0, 0.5, 1.0], ddof=1) / 3**0.5)
    delta = difference(rows, "method", "full")
    assert delta is not None
    np.testing.assert_allclose(delta, [5 / 6, 5 / 6 - margin, 5 / 6 + margin])
    oracle = stats.ttest_rel([91.0, 92.5, 92.0], FULL).confidence_interval(0.95)
    np.testing.assert_allclose(delta[1:], [oracle.low, oracle.high])


def test_differences_use_only_the_seeds_that_both_have():
    rows = rows_of(full=FULL, method=[91.0])
    delta = difference(rows, "method", "full")
    assert delta is not None
    assert delta.mean == 1.0
    assert np.isnan(delta.low)
    assert difference(rows, "method", "absent") is None


@pytest.mark.parametrize(
    ("method", "controls", "cost", "word"),
    [
        ([90.1, 92.0, 91.0], [89.0, 91.1, 90.0], 50.0, "wins"),
        # at full training's cost nothing is won
        (
            [90.1, 92.0, 91.0],
            [89.0, 91.1, 90.0],
            100.0,
            "above its controls, not shown non-inferior at lower cost",
        ),
        # below full by more than the margin of 0.25
        (
            [89.5, 91.5, 90.5],
            [88.0, 90.1, 89.0],
            50.0,
            "above its controls, not shown non-inferior at lower cost",
        ),
        ([90.1, 92.0, 91.0], [90.0, 92.1, 91.0], 50.0, "non-inferior, no advantage"),
        ([88.1, 90.0, 89.0], [88.0, 90.1, 89.0], 50.0, "no advantage"),
        ([90.1], [89.0], 50.0, "undecided"),
    ],
)
def test_verdicts_need_every_comparison(method, controls, cost, word):
    rows = rows_of(
        cost,
        full=FULL,
        full_short=controls,
        random=controls,
        random_fresh=controls,
        method=method,
    )
    assert verdict(rows, "method", margin=0.25) == word


def test_one_control_that_is_not_beaten_denies_the_win():
    better, worse = [90.2, 92.1, 91.2], [89.0, 91.1, 90.0]
    rows = rows_of(
        full=FULL,
        full_short=worse,
        random=better,
        random_fresh=worse,
        method=[90.1, 92, 91],
    )
    assert verdict(rows, "method", margin=0.25) == "non-inferior, no advantage"
    assert verdict(rows, "full", margin=0.25) == "reference"
    assert verdict(rows, "random", margin=0.25) == "control"


def test_without_a_control_there_is_no_verdict():
    rows = rows_of(full=FULL, full_short=FULL, method=FULL)
    assert verdict(rows, "method", margin=0.25) == "undecided"


def test_spread_is_the_samples():
    assert mean_std(rows_of(full=FULL), "full") == (91.0, 1.0)
    assert np.isnan(mean_std(rows_of(full=FULL[:1]), "full")[1])


def test_reports_hold_every_row_and_no_nan():
    rows = rows_of(full=FULL[:1], full_short=FULL[:1])
    report = json.loads(
        to_json(rows, 0.25, experiment="demo"), parse_constant=pytest.fail
    )
    assert report["experiment"] == "demo"
    assert [row["method"] for row in report["rows"]] == ["full", "full-short"]
    required = {"method", "seed", "quality", "wall_train_s", "wall_score_s"}
    required |= {"wall_eval_s", "compile_s", "cost_examples", "flops"}
    assert required <= report["rows"][0].keys()
    assert report["summary"][1]["means"]["cost_examples"] == 50.0
    text = to_markdown(rows, 0.25, title="T", text="about", figures=["a.png"])
    assert "| full-short | control " in text
    assert "1.8 (1.00)" in text  # 1.00 + 0.50 + 0.25, scoring and selection counted
    assert "![a.png](a.png)" in text
    assert "One seed gives no interval" in text
    assert "Student" not in text


def test_a_report_of_several_seeds_names_its_interval():
    rows = rows_of(full=FULL, full_short=FULL)
    text = to_markdown(rows, 0.25, title="T", text="about", figures=[])
    assert f"Student's t over {len(FULL)} seeds." in text
