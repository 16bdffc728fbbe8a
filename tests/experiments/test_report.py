"""Stored results, read back, merged and reported."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.study import records
from experiments.study.hooks import Evaluation, Metrics
from experiments.study.records import read_study
from experiments.study.report import to_json, to_markdown, write_report
from experiments.study.workdir import RecordError
from tests.experiments.test_paired_statistics import FULL, NOISE, with_controls

CONFIG = {
    "experiment": "tiny",
    "title": "Title",
    "description": "About it.",
    "objective": {"measure": "accuracy", "unit": "%", "margin": 0.25},
    "groups": ["a", "b"],
    "methods": ["full", "full-short", "random", "random-fresh", "method"],
}


def store(folder, results, *, config=CONFIG, data: int | str = 0):
    """A folder as a study leaves it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for result in results:
        job = records.job_folder(folder, result.method, result.seed)
        job.mkdir(parents=True)
        metrics = Metrics(job / records.METRICS_NAME)
        quality = result.measures["accuracy"]
        half = Evaluation(5, result.cost / 2, {"accuracy": quality - 5})
        metrics.on_evaluation(half)
        metrics.on_evaluation(Evaluation(10, result.cost, result.measures))
        records.store_result(job, result, data, {"jax": "0.10.2"})
    names = [records.job_name(result.method, result.seed) for result in results]
    (folder / "asked.json").write_text(json.dumps(names))
    return folder


def studied(num_seeds=10):
    full, noise = FULL[:num_seeds], NOISE[:num_seeds]
    return with_controls(full + noise, full - 1, full=full)


def test_reports_hold_every_row_and_no_nan(tmp_path):
    study = read_study([store(tmp_path / "run", studied(num_seeds=1))])
    report = json.loads(to_json(study, is_complete=True), parse_constant=pytest.fail)
    assert [row["method"] for row in report["rows"]] == CONFIG["methods"]
    required = {"seed", "measures", "cost", "flops", "seconds", "environment"}
    assert required <= report["rows"][0].keys()
    assert report["objective"]["margin"] == 0.25
    text = to_markdown(study, figures=["a.png"], is_complete=False)
    assert "| full-short " in text
    assert "1.8 (1.00)" in text  # 1.00 + 0.50 + 0.25, scoring and selection counted
    assert "![a.png](a.png)" in text
    assert "One seed gives no interval" in text
    assert "Incomplete" in text


def test_the_cost_of_a_target_is_that_of_the_first_evaluation_to_reach_it(tmp_path):
    study = read_study([store(tmp_path / "run", studied())])
    summary = json.loads(to_json(study, is_complete=True))["summary"]
    by_method = {entry["method"]: entry for entry in summary}
    # The target is full training's mean less the margin.
    target = FULL.mean() - 0.25
    expected = [50.0] * int(np.sum(target <= FULL + NOISE))
    assert by_method["method"]["cost_to_target"] == expected
    assert by_method["method"]["verdict"] == "wins"
    text = to_markdown(study, figures=[], is_complete=True)
    assert f"50 ({len(expected)} of 10)" in text
    assert f"cost to reach {target:.4g}" in text


def test_folders_of_one_study_are_merged(tmp_path, capsys):
    results = studied()
    folders = [
        store(tmp_path / f"part{part}", [r for r in results if r.seed % 2 == part])
        for part in (0, 1)
    ]
    whole = read_study([store(tmp_path / "whole", results)])
    merged = read_study(folders)
    assert merged.results == whole.results
    names = [str(folder) for folder in folders]
    assert main(["report", *names, "--out", str(tmp_path / "merged")]) == 0
    assert "| method " in capsys.readouterr().out
    for name in ("report.md", "report.json", "quality.png"):
        assert (tmp_path / "merged" / name).stat().st_size > 1000
    # The report of the merged folders is that of the whole, and nothing is overwritten.
    assert main(["report", str(tmp_path / "whole")]) == 0
    reports = [
        json.loads((tmp_path / name / "report.json").read_text())
        for name in ("merged", "whole")
    ]
    assert reports[0] == reports[1]
    assert main(["report", *names, "--out", str(tmp_path / "merged")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_is_not_one_study_is_refused(tmp_path):
    results = studied(num_seeds=2)
    first = store(tmp_path / "first", results)
    again = store(tmp_path / "again", results)
    with pytest.raises(RecordError, match="are the same run"):
        read_study([first, again])
    other = store(tmp_path / "other", [], config=CONFIG | {"epochs": 3})
    with pytest.raises(RecordError, match=r"other was run with epochs=3, .*first with"):
        read_study([first, other])
    with pytest.raises(RecordError, match="is not the folder of a study"):
        read_study([tmp_path])


def test_runs_of_a_seed_on_different_data_are_not_compared(tmp_path):
    results = studied(num_seeds=2)
    first = store(tmp_path / "first", [r for r in results if r.role == "method"])
    rest = [r for r in results if r.role != "method"]
    other = store(tmp_path / "other", rest, data="other")
    with pytest.raises(RecordError, match="were run on different data: 0 and 'other'"):
        read_study([first, other])


def test_a_report_says_what_is_missing_of_what_was_asked(tmp_path):
    folder = store(tmp_path / "run", studied(num_seeds=2))
    assert "Incomplete" not in (write_report([folder], folder) or "")
    shutil.rmtree(folder / "jobs" / "method-1")
    assert "Incomplete" in (write_report([folder], folder) or "")


def test_measures_that_are_not_finite_and_skipped_steps_are_reported(tmp_path):
    results = studied(num_seeds=2)
    results[-1] = dataclasses.replace(
        results[-1], measures={"accuracy": np.nan}, num_skipped=3
    )
    folder = store(tmp_path / "run", results)
    text = write_report([folder], folder) or ""
    assert "undecided: a measure of it or of full is not finite" in text
    assert "Steps skipped as not finite: method (seed 1) 3 of 10." in text
    json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)


def test_an_altered_result_is_refused(tmp_path):
    folder = store(tmp_path / "run", studied(num_seeds=2))
    path = folder / "jobs" / "method-1" / "result.json"
    better = json.loads(path.read_text())
    better["result"]["measures"]["accuracy"] += 1
    path.write_text(json.dumps(better))
    with pytest.raises(RecordError, match=r"does not match.*again with --resume"):
        read_study([folder])


def test_a_result_is_read_as_it_was_stored(tmp_path):
    (result, *_) = studied()
    odd = dataclasses.replace(result, measures={"accuracy": 1 / 3}, cost=1e-300)
    job = store(tmp_path / "run", [odd]) / "jobs" / "full-0"
    assert records.read_job(job).result == odd
