"""The demo as a person runs it, small."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import demo
from experiments.__main__ import main, parse
from experiments.demo import unicode_names

ROOT = Path(__file__).parents[2]
AS_A_USER = {
    "XLA_FLAGS": "",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "false",
    "NO_COLOR": "1",
}


def start_demo(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "demo", "--out", str(folder), *arguments],
        cwd=ROOT,
        env=os.environ | AS_A_USER,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end(tmp_path):
    methods = ["full", "full-short", "balanced", "recommended"]
    arguments = ["--seeds", "2", "--epochs", "1", "--methods", *methods]
    process = start_demo(tmp_path / "run", *arguments)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "| recommended " in output
    assert str(tmp_path / "run") in output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["is_complete"]
    rows = report["rows"]
    assert len(rows) == 8
    # The commonest category: 87 %.
    assert all(row["measures"]["accuracy"] > 88 for row in rows)
    costs = {row["method"]: row["cost"] for row in rows}
    assert costs.pop("full") == 16_000
    assert all(8_000 <= cost < 8_064 for cost in costs.values())
    # One compilation serves every method: the second seed has next to nothing left.
    compiled = [
        sum(row["seconds"]["compile"] for row in rows if row["seed"] == seed)
        for seed in (0, 1)
    ]
    assert compiled[1] < compiled[0] / 4
    verdicts = {entry["method"]: entry["verdict"] for entry in report["summary"]}
    assert verdicts["full"] == "reference"
    assert verdicts["balanced"] == "control"
    for name in ("report.md", "quality.png", "chosen.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000


def test_an_interrupt_leaves_a_valid_partial_report(tmp_path):
    methods = ("--methods", "full", "full-short", "random", "--seeds", "1")
    process = start_demo(tmp_path / "run", *methods, "--epochs", "0.5")
    assert process.stdout is not None
    for line in process.stdout:
        if "seed 0" in line:  # one run is complete
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Interrupted" in output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not report["is_complete"]
    assert [row["method"] for row in report["rows"]] == ["full"]
    assert "Incomplete" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "seeds must be"),
        (["--epochs", "nan"], "epochs must be a number above 0"),
        (["--methods", "bogus"], "choose from full, full-short"),
        (["--preset", "huge"], "laptop"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *arguments])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_options_are_grouped_and_the_same_for_every_experiment(capsys):
    helps = {}
    for name in ("demo", "digits"):
        with pytest.raises(SystemExit):
            parse([name, "--help"])
        helps[name] = capsys.readouterr().out
    for text in helps.values():
        for group in ("study options", "run options"):
            assert group in text
        for option in ("--preset", "--seeds", "--methods", "--out", "--resume"):
            assert option in text


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


def test_scripts_are_numbered_alike_in_all_seeds_and_have_a_long_tail():
    (_, first), (_, second) = unicode_names.load(seed=0), unicode_names.load(seed=1)
    # The first token is the first word, so a script has few of them: known and hashed.
    for test in (first, second):
        for script in np.unique(test.scripts):
            assert len(np.unique(test.tokens[test.scripts == script, 0])) == 1
    counts = np.bincount(first.scripts)
    assert np.sum(counts >= demo.MIN_SCRIPT_SIZE) > 50
    assert np.argmax(counts) == np.argmax(np.bincount(second.scripts))


def test_the_held_out_pool_does_not_reach_the_loss():
    split = demo.load(0)
    assert split.train.take(np.arange(2)).keys() == {"tokens", "labels"}
