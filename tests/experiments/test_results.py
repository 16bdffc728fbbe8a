"""What the documentation says of stored results is what is stored."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments import demo, inr
from experiments.study.options import parse_seeds
from experiments.study.study import Experiment

ROOT = Path(__file__).parents[2]


class Stored(NamedTuple):
    """A stored result, and the page that shows it."""

    experiment: Experiment
    content: dict[str, Any]
    page: str

    @property
    def shown(self) -> set[str]:
        """Measures whose differences the page has."""
        return {
            name
            for name in self.content["summary"][0]["measures"]
            if f"### {name.replace('_', ' ')}".lower() in self.page.lower()
        }


def read(experiment: Experiment, page: str) -> Stored:
    path = ROOT / "experiments" / "results" / f"{experiment.name}.json"
    return Stored(
        experiment, json.loads(path.read_text()), (ROOT / "docs" / page).read_text()
    )


STORED = {
    "demo": read(demo.EXPERIMENT, "demo.md"),
    "inr": read(inr.EXPERIMENT, "coordinates.md"),
}
ENTRIES = [
    (name, entry)
    for name, stored in STORED.items()
    for entry in stored.content["summary"]
]


@pytest.mark.parametrize("name", STORED)
def test_the_stored_result_is_the_whole_preset_of_this_version(name):
    experiment, content, _ = STORED[name]
    config, preset = content["config"], experiment.presets["full"]
    workload = preset.make_workload()
    assert content["is_complete"]
    assert content["objective"] == workload.objective._asdict()
    assert (config["preset"], config["epochs"]) == ("full", preset.epochs)
    assert config["learning_rates"] == {
        method.name: workload.learning_rate_of(method.name)
        for method in experiment.methods
    }
    found = {(row["method"], row["seed"]) for row in content["rows"]}
    assert found == {
        (method.name, seed)
        for method in experiment.methods
        for seed in parse_seeds(preset.seeds)
    }


@pytest.mark.parametrize(
    ("name", "entry"), ENTRIES, ids=[f"{n}-{e['method']}" for n, e in ENTRIES]
)
def test_the_page_shows_each_row_as_it_is_stored(name, entry):
    _, content, page = STORED[name]
    (row,) = [
        line
        for line in page.splitlines()
        if line.startswith(f"| {entry['method']} ") and f"| {entry['verdict']} " in line
    ]
    for mean, std in entry["measures"].values():
        assert f"{mean:.2f} ± {std:.2f}" in row
    others = [e["method"] for e in content["summary"]]
    assert content["objective"]["measure"] in STORED[name].shown
    for measure in STORED[name].shown:
        for other, delta in entry["differences"][measure].items():
            if other in others and f"− {other} " in page:
                mean, low, high = delta["mean"], delta["low"], delta["high"]
                assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" in page
