"""The demo as a person runs it, small."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import unicode_names

ROOT = Path(__file__).parents[2]


def start_demo(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "demo", "--out", str(folder), *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end(tmp_path):
    demo = start_demo(
        tmp_path / "run",
        *("--seeds", "2", "--epochs", "2"),
        *("--methods", "full", "full-short", "random", "random-fresh"),
        *("attent-hard", "recommended"),
    )
    output, errors = demo.communicate()
    assert demo.returncode == 0, errors
    assert "| recommended " in output
    assert str(tmp_path / "run") in output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["is_complete"]
    rows = report["rows"]
    assert len(rows) == 12
    assert all(row["quality"] > 90 for row in rows)  # the commonest category: 87
    costs = {row["method"]: row["cost_examples"] for row in rows}
    assert costs.pop("full") == 32_000
    assert all(16_000 <= cost < 16_064 for cost in costs.values())
    # One compilation serves every method: the second seed has next to nothing left.
    compiled = [sum(r["compile_s"] for r in rows if r["seed"] == s) for s in (0, 1)]
    assert compiled[1] < compiled[0] / 4
    verdicts = {entry["method"]: entry["verdict"] for entry in report["summary"]}
    assert verdicts["full"] == "reference"
    assert verdicts["recommended"] not in ("undecided", "control")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["method"] for line in lines} == set(verdicts)
    for name in ("report.md", "quality.png", "chosen.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000


def test_an_interrupt_leaves_a_valid_partial_report(tmp_path):
    demo = start_demo(tmp_path / "run", "--methods", "full-short", "full", "random")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "full-short" in line:  # one run is complete
            break
    demo.send_signal(signal.SIGINT)
    output, errors = demo.communicate()
    assert demo.returncode == 130, errors
    assert "Interrupted" in output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not report["is_complete"]
    assert [row["method"] for row in report["rows"]] == ["full-short"]
    assert "partial" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--epochs", "1"], "epochs must be at least 2"),
        (["--methods", "bogus"], "bogus"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, arguments, message):
    demo = start_demo(tmp_path / "run", *arguments)
    _, errors = demo.communicate()
    assert demo.returncode != 0
    assert message in errors
    assert not (tmp_path / "run").exists()


def test_names_are_real_disjoint_and_their_own_in_each_seed():
    train, test = unicode_names.load(seed=0)
    assert train.tokens.shape == (16_000, 10)
    assert test.tokens.shape == (12_000, 10)
    assert train.tokens.max() < unicode_names.VOCABULARY_SIZE
    assert (train.tokens[:, 0] > 0).all()  # no name is empty
    again, _ = unicode_names.load(seed=0)
    np.testing.assert_array_equal(train.tokens, again.tokens)
    other, _ = unicode_names.load(seed=1)
    assert (train.labels != other.labels).any()
    shares = np.bincount(train.labels) / len(train.labels)
    assert 0.8 < shares.max() < 0.95  # other letters: ideographs and syllables
