"""`python -m experiments inr` as a person runs it, small; and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from experiments.__main__ import main
from experiments.inr import EXPERIMENT
from experiments.inr.milestones import Trajectory, milestones
from experiments.study.records import read_study

CONTROLS = ["full", "full-short", "random", "random-fresh"]


@pytest.fixture
def run(capsys):
    def run(*arguments: object) -> tuple[int, str]:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            status = main(["inr", *map(str, arguments)])
        output = capsys.readouterr()
        return status, output.out + output.err

    return run


@pytest.fixture
def refused(run, tmp_path):
    def refused(*arguments: object) -> str:
        folder = tmp_path / "run"
        try:
            status, text = run(*arguments, "--out", folder)
        except SystemExit as exit:
            status, text = exit.code, ""
        assert status == 2
        assert not folder.exists()
        return " ".join(text.split())

    return refused


def picture(folder, mode="RGB", size=(40, 40)):
    path = folder / f"{mode}.png"
    Image.new(mode, size).save(path)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inr") / "run"
    own = picture(folder.parent)
    arguments = ["--preset", "smoke", "--seeds", "1", "--epochs", "100"]
    arguments += ["--methods", *CONTROLS, "nint", "--signals", own, "--share", "0.25"]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert main(["inr", *map(str, arguments), "--out", str(folder)]) == 0
    return folder


def test_a_run_reports_its_table_and_draws_its_pictures(study):
    report = (study / "report.md").read_text()
    assert "| nint " in report
    assert "| – the paper's | 28.96" in report
    for name in ("quality", "trajectories", "reconstructions", "coordinates"):
        assert f"![{name}.png]({name}.png)" in report
        with Image.open(study / f"{name}.png") as image:
            assert image.size[0] > 300
    config = json.loads((study / "config.json").read_text())
    assert config["share"] == 0.25
    assert config["signals"][0].endswith("RGB.png")


def test_a_run_keeps_reconstructions_and_choices(study):
    jobs = {job.result.method: job for job in read_study([study]).jobs}
    last = list(jobs["nint"].snapshots().values())[-1]
    assert last["reconstruction"].shape == last["signal"].shape == (32, 32, 3)
    assert (last["signal"] == -1).all()  # the black picture
    assert last["chosen"].sum() == 256  # 25 %
    assert last["ntk"].shape == last["error"].shape == (32, 32)
    assert set(list(jobs["full"].snapshots().values())[-1]) == {
        "signal",
        "reconstruction",
    }
    costs = {name: job.result.cost for name, job in jobs.items()}
    step = 1024 * (5 * 5 / 3 + 50 / 4)  # five scorings and fifty iterations of nint
    assert costs["full"] == 1024 * 100
    assert costs["nint"] == pytest.approx(3 * step)


def test_the_report_is_drawn_again_from_what_is_stored(study, tmp_path):
    out = tmp_path / "again"
    assert main(["report", str(study), "--out", str(out)]) == 0
    assert (out / "coordinates.png").exists()


def test_signals_that_cannot_be_used_are_refused_before_training(refused, tmp_path):
    assert "RGBA" in refused("--signals", picture(tmp_path, "RGBA"))
    assert "convert" in refused("--signals", picture(tmp_path, "L")).lower()
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture(tmp_path).read_bytes()[:60])
    assert "broken.png" in refused("--signals", broken)
    text = refused("--preset", "cpu-shape", "--signals", picture(tmp_path))
    assert "choose a preset of pictures or sounds" in text
    silent = tmp_path / "silent.wav"
    wavfile.write(silent, 8_000, np.zeros(16_000, np.int16))
    assert "silent.wav" in refused("--preset", "cpu-sound", "--signals", silent)


@pytest.mark.parametrize("share", [0, 1.5, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(refused, share):
    refused("--share", share)


def test_a_share_of_less_than_a_coordinate_is_refused(refused):
    text = refused("--preset", "smoke", "--share", 1e-9)
    assert "share is 1e-09, less than one of the 1,024 coordinates" in text


def test_a_text_that_is_named_as_a_picture_is_refused_by_its_name(refused, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no picture")
    text = refused("--preset", "smoke", "--signals", path)
    assert "text.png is not a picture" in text
    assert "BytesIO" not in text


def test_only_the_first_seed_is_kept_for_pictures_and_full_alone_reports(run, tmp_path):
    arguments = ["--preset", "smoke", "--seeds", "200-201", "--epochs", 50]
    status, text = run(*arguments, "--methods", "full", "--out", tmp_path / "run")
    assert status == 0, text
    jobs = {job.result.seed: job for job in read_study([tmp_path / "run"]).jobs}
    assert jobs[200].snapshots()
    assert not jobs[201].snapshots()
    report = (tmp_path / "run" / "report.md").read_text()
    assert "![reconstructions.png]" in report
    assert "coordinates.png" not in report


def test_rows_of_the_paper_are_beside_pictures_only(study):
    stored = read_study([study])
    assert "the paper's" in milestones(stored)
    sounds = [
        job._replace(result=dataclasses.replace(job.result, measures={"psnr": 1.0}))
        for job in stored.jobs
    ]
    assert "the paper's" not in milestones(stored._replace(jobs=sounds))


def test_a_file_that_is_not_there_is_refused(refused, tmp_path):
    refused("--signals", tmp_path / "nothing.png")


def test_every_preset_makes_a_workload_that_loads_its_signals():
    for preset in EXPERIMENT.presets.values():
        workload = preset.make_workload()
        if workload.num_examples < 40_000:
            split = workload.load(200)
            assert len(split.train) == workload.num_examples
            example = split.train.take(np.arange(1))
            shapes = jax.tree.map(lambda leaf: leaf.shape, workload.batch(1))
            assert jax.tree.map(np.shape, example) == shapes


def test_milestones_are_interpolated_and_never_extrapolated():
    run = Trajectory(
        np.array([100.0, 200.0, 300.0]),
        np.array([1.0, 2.0, 3.0]),
        np.array([20.0, 30.0, 28.0]),
    )
    assert run.at(150) == 25
    assert np.isnan(run.at(301))
    assert np.isnan(run.at(99))
    assert run.seconds_to(25) == 1.5
    assert run.seconds_to(20) == 1
    assert run.seconds_to(30) == 2
    assert np.isnan(run.seconds_to(31))
