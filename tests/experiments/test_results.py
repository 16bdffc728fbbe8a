"""What the documentation says of stored results is what is stored."""

import json
from pathlib import Path

import pytest

from experiments.demo import EXPERIMENT, OBJECTIVE, make_workload
from experiments.study.options import parse_seeds

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "experiments" / "results" / "demo.json").read_text())
PAGE = (ROOT / "docs" / "demo.md").read_text()


def test_the_stored_result_is_the_whole_preset_of_this_version():
    config, preset = STORED["config"], EXPERIMENT.presets["full"]
    assert STORED["is_complete"]
    assert STORED["objective"] == OBJECTIVE._asdict()
    assert (config["preset"], config["epochs"]) == ("full", preset.epochs)
    workload = make_workload()
    assert config["learning_rates"] == {
        method.name: workload.learning_rate_of(method.name)
        for method in EXPERIMENT.methods
    }
    found = {(row["method"], row["seed"]) for row in STORED["rows"]}
    assert found == {
        (method.name, seed)
        for method in EXPERIMENT.methods
        for seed in parse_seeds(preset.seeds)
    }


@pytest.mark.parametrize("entry", STORED["summary"], ids=lambda entry: entry["method"])
def test_the_page_shows_each_row_as_it_is_stored(entry):
    (row,) = [
        line
        for line in PAGE.splitlines()
        if line.startswith(f"| {entry['method']} ") and "±" in line
    ]
    assert f"| {entry['verdict']} " in row
    for mean, std in entry["measures"].values():
        assert f"{mean:.2f} ± {std:.2f}" in row
    others = [e["method"] for e in STORED["summary"]]
    for differences in entry["differences"].values():
        for other, delta in differences.items():
            if other in others and f"− {other} " in PAGE:
                mean, low, high = delta["mean"], delta["low"], delta["high"]
                assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" in PAGE
