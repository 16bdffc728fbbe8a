"""Figures with verdicts are jobs: stored, resumed, merged and reported."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.__main__ import main
from experiments.study.claims import (
    Finding,
    MeasuredFigure,
    Verdict,
    figure_folder,
    read_figure,
    store_figure,
)
from experiments.study.plots import to_png
from experiments.study.workdir import RecordError

CONFIG = {
    "experiment": "claims",
    "title": "Title",
    "description": "About it.",
    "figures": ["first", "second"],
}
PICTURE = to_png(Figure())


def figure(name, verdict: Verdict = "holds"):
    return MeasuredFigure(
        name,
        f"Headline of {name}\n\nWhat was\nrun.\n",
        [Finding(f"claim of {name}", "0.5 was measured", verdict)],
        seconds=12.4,
        data={"x": np.array([1.0, np.inf])},
    )


def store(folder, *figures):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for stored in figures:
        place = figure_folder(folder, stored.name)
        store_figure(place, stored, PICTURE, {"jax": "0.10.2"})
    return folder


def test_a_figure_is_read_as_it_was_stored(tmp_path):
    folder = store(tmp_path / "run", figure("first"))
    job = read_figure(figure_folder(folder, "first"))
    assert job.figure == figure("first")._replace(data={"x": [1.0, None]})
    assert job.environment == {"jax": "0.10.2"}


def test_an_altered_verdict_is_refused(tmp_path):
    folder = store(tmp_path / "run", figure("first", "fails"))
    path = figure_folder(folder, "first") / "result.json"
    path.write_text(path.read_text().replace("fails", "holds"))
    with pytest.raises(RecordError, match="does not match"):
        read_figure(path.parent)


def test_figures_of_several_folders_make_one_report(tmp_path, capsys):
    figures = figure("second", "fails"), figure("first")
    folders = [str(store(tmp_path / found.name, found)) for found in figures]
    assert main(["report", *folders, "--out", str(tmp_path / "merged")]) == 0
    markdown = (tmp_path / "merged" / "report.md").read_text()
    assert markdown in capsys.readouterr().out
    # In the configuration's order, whichever folder they are from.
    assert "## 1. Headline of first\n\nWhat was run.\n\n![" in markdown
    assert "| 2. claim of second | **fails** |" in markdown
    assert "About it. Made with jax 0.10.2." in markdown
    report = json.loads((tmp_path / "merged" / "report.json").read_text())
    assert [row["name"] for row in report["figures"]] == ["first", "second"]
    for name in ("first", "second"):
        assert (tmp_path / "merged" / f"{name}.png").read_bytes() == PICTURE


def test_a_folder_without_a_figure_is_refused(tmp_path, capsys):
    assert main(["report", str(store(tmp_path / "run"))]) == 2
    assert "no completed run yet" in capsys.readouterr().err
