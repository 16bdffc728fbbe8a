"""Runs that are killed, pre-empted or given NaN continue bitwise as if undisturbed."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.study.hooks import Evaluation, Metrics, read_taught
from experiments.study.workdir import RecordError, Run
from tests.experiments import tiny_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def processes():
    """Processes that have everything imported already, but no device yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([tiny_study.__name__])
    return context


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("survival")


def start(processes, folder: Path, **options):
    process = processes.Process(
        target=tiny_study.in_own_process,
        args=(folder, folder.parent / "cache"),
        kwargs=options,
    )
    process.start()
    return process


def start_cluster(processes, folder: Path, num_processes: int, **options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start(processes, folder, cluster=(address, num_processes, number), **options)
        for number in range(num_processes)
    ]


def wait_until(is_true, started, folder: Path) -> None:
    """Wait for a sign of processes that run in the folder."""
    while not is_true():
        assert all(process.is_alive() for process in started), output_of(folder)
        time.sleep(0.01)


def checkpoints_of(folder: Path) -> set[Path]:
    found = folder.glob("jobs/*/checkpoints/training/*")
    return {path for path in found if path.name.isdigit()}


def output_of(folder: Path) -> str:
    return (folder.parent / f"{folder.name}.output").read_text()


def finish(processes, folder: Path, **options) -> None:
    process = start(processes, folder, **options)
    process.join()
    assert process.exitcode == 0, output_of(folder)


def outcome(folder: Path) -> dict[str, bytes]:
    """Metrics and ids taught of every run, byte by byte."""
    names = ("metrics.jsonl", "taught.ids")
    files = [path for name in names for path in folder.glob(f"jobs/*/{name}")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lines_of(folder: Path, key: str) -> list[dict]:
    """The lines of all metrics that have the key, with their run's name."""
    return [
        line | {"run": path.parent.name}
        for path in sorted(folder.glob("jobs/*/metrics.jsonl"))
        for line in map(json.loads, path.read_text().splitlines())
        if key in line
    ]


def assert_same_outcome(folder: Path, reference: Path) -> None:
    assert len(outcome(reference)) == 2 * len(tiny_study.METHODS)
    assert outcome(folder) == outcome(reference)


@pytest.fixture(scope="module")
def uninterrupted(processes, place):
    """A run left alone, that never saved, and about the seconds of one that saves."""
    began = time.monotonic()
    finish(processes, place / "reference", checkpoint_seconds=1e9)
    return place / "reference", (time.monotonic() - began) / 2  # without compilation


def test_the_outcome_is_a_fingerprint_of_the_run(uninterrupted):
    epochs = lines_of(uninterrupted[0], "params_crc32")
    assert {line["run"] for line in epochs} == {"attent-soft-0", "recommended-0"}
    assert len({line["params_crc32"] for line in epochs}) == len(epochs)
    assert all(line["order_crc32"] for line in epochs)
    taught = read_taught(uninterrupted[0] / "jobs" / "recommended-0" / "taught.ids")
    last = [line for line in epochs if line["run"] == "recommended-0"][-1]
    assert len(taught) == last["num_taught"] > tiny_study.NUM_EXAMPLES


@pytest.mark.parametrize(
    "num_kills_wanted", [3, pytest.param(20, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_a_run_ends_bitwise_the_same(
    processes, place, uninterrupted, num_kills_wanted
):
    reference, seconds = uninterrupted
    draw = np.random.default_rng(0)
    num_kills = num_completed = num_resumed = 0
    while num_kills < num_kills_wanted or num_resumed < num_kills_wanted / 7:
        assert num_kills < 10 * num_kills_wanted  # started from scratch each time
        folder = place / f"{num_kills_wanted}-kills-{num_completed}"
        while True:
            process = start(processes, folder)
            process.join(timeout=draw.uniform(0.1, 1.2 * seconds))
            if process.exitcode is not None:
                assert process.exitcode == 0, output_of(folder)
                break
            process.kill()
            process.join()
            num_kills += 1
        assert_same_outcome(folder, reference)
        num_resumed += output_of(folder).count("continuing after step")
        num_completed += 1


def test_an_interrupted_and_a_preempted_run_can_go_on(processes, place, uninterrupted):
    reference, _ = uninterrupted
    folder = place / "preempted"
    way_on = f"Continue with --resume --out {folder}"
    process = start(processes, folder, checkpoint_seconds=1e9)
    is_begun = lambda: list(folder.glob("jobs/*/metrics.jsonl"))  # noqa: E731
    wait_until(is_begun, [process], folder)  # in the first run
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130, output_of(folder)
    assert f"Interrupted. {way_on}" in output_of(folder)
    assert "there is nothing to report" in output_of(folder)
    assert checkpoints_of(folder)
    process = start(processes, folder, checkpoint_seconds=1e9)
    is_continued = lambda: "continuing after step" in output_of(folder)  # noqa: E731
    wait_until(is_continued, [process], folder)
    process.terminate()
    process.join()
    assert process.exitcode == 0, output_of(folder)
    assert f"SIGTERM: saved. {way_on}" in output_of(folder)
    assert checkpoints_of(folder)
    finish(processes, folder, checkpoint_seconds=1e9)
    assert output_of(folder).count("continuing after step") == 2
    assert_same_outcome(folder, reference)


def test_two_processes_select_as_one_survive_a_kill_and_one_can_finish_their_run(
    processes, place, uninterrupted
):
    reference, folder = uninterrupted[0], place / "cluster"
    cluster = start_cluster(processes, folder, 2, checkpoint_seconds=1e9)
    is_half_done = lambda: list(folder.glob("jobs/*/result.json"))  # noqa: E731
    wait_until(is_half_done, cluster, folder)
    cluster[-1].terminate()  # one gets the signal, all stop
    for process in cluster:
        process.join()
        assert process.exitcode == 0, output_of(folder)
    (preempted_at,) = checkpoints_of(folder)
    cluster = start_cluster(processes, folder, 2)
    is_further = lambda: checkpoints_of(folder) - {preempted_at}  # noqa: E731
    wait_until(is_further, cluster, folder)
    for process in reversed(cluster):  # one is lost, and the launcher ends the other
        process.kill()
        process.join()
    finish(processes, folder, checkpoint_seconds=1e9)
    assert output_of(folder).count("continuing after step") == 2
    found, expected = (
        [*lines_of(run, "params_crc32"), *lines_of(run, "measures")]
        for run in (folder, reference)
    )
    # Parameters only to rounding: sums over devices come in another order.
    for line, like in zip(found, expected, strict=True):
        for name in ("loss", "measures"):
            if name in like:
                assert line.pop(name) == pytest.approx(like.pop(name), rel=1e-5)
        assert bool(line.pop("params_crc32", 1)) == bool(like.pop("params_crc32", 1))
        assert line == like


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 4])
def test_a_stopped_and_a_killed_process_change_nothing(place, num_processes):
    def launch(folder: Path) -> subprocess.Popen[str]:
        child = (
            "from pathlib import Path; from tests.experiments import tiny_study; "
            f"tiny_study.in_own_process(Path({str(folder)!r}), "
            f"Path({str(place / 'cache')!r}), cluster=(None, None, None))"
        )
        program = (
            "import sys; from experiments.launch import run; "
            f"sys.exit(run([sys.executable, '-c', {child!r}], {num_processes}))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": ""},
            stderr=subprocess.PIPE,
            text=True,
        )

    whole, folder = (place / f"{name}-{num_processes}" for name in ("whole", "killed"))
    with launch(whole) as launcher:
        assert launcher.wait() == 0, output_of(whole)
    with launch(folder) as launcher:
        while not checkpoints_of(folder):
            assert launcher.poll() is None, output_of(folder)
            time.sleep(0.01)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        assert len(pids) == num_processes
        os.kill(pids[-1], signal.SIGSTOP)
        assert launcher.stderr is not None
        assert f"kill -CONT {pids[-1]}" in launcher.stderr.readline()
        time.sleep(3)
        os.kill(pids[-1], signal.SIGCONT)
        assert "continues" in launcher.stderr.readline()
        before = checkpoints_of(folder)
        while not checkpoints_of(folder) - before:
            assert launcher.poll() is None, output_of(folder)
            time.sleep(0.01)
        os.kill(pids[-1], signal.SIGKILL)
        began = time.monotonic()
        assert launcher.wait() == 128 + signal.SIGKILL
        assert time.monotonic() - began < 20
    with launch(folder) as launcher:
        assert launcher.wait() == 0, output_of(folder)
    assert "continuing after step" in output_of(folder)
    assert_same_outcome(folder, whole)


def test_steps_that_are_not_finite_are_skipped_counted_and_reported(processes, place):
    folder = place / "poisoned"
    finish(processes, folder, poisoned_id=17, max_skipped_steps=1000)
    skips = lines_of(folder, "skipped_step")
    assert skips
    assert all(line["ids"] == [17] for line in skips)
    last = {line["run"]: line for line in lines_of(folder, "epoch")}
    assert last.keys() == {f"{method.name}-0" for method in tiny_study.METHODS}
    for name, line in last.items():
        assert line["num_skipped"] == len([s for s in skips if s["run"] == name])
        assert np.isfinite(line["loss"])
        taught = read_taught(folder / "jobs" / name / "taught.ids")
        assert len(taught) == line["num_taught"]
        assert 17 not in taught  # a skipped step teaches nothing
    assert all(
        e["measures"]["accuracy"] > 50 for e in lines_of(folder, "measures")[-1:]
    )
    # Too many stop the run. It continues from its last good state if more are allowed.
    limited = place / "limited"
    process = start(processes, limited, poisoned_id=17, max_skipped_steps=1)
    process.join()
    assert process.exitcode == 1
    output = " ".join(output_of(limited).split())
    assert "2 steps had a loss or gradient that is not finite, and 1 are" in output
    assert "--max-skipped-steps" in output
    finish(processes, limited, poisoned_id=17, max_skipped_steps=1000)
    assert_same_outcome(limited, folder)


def test_another_configuration_is_refused_by_the_field(tmp_path):
    Run("tiny", tmp_path / "run", config={"seeds": 2, "epochs": 3})
    with pytest.raises(RecordError, match="run with epochs=3, not 4"):
        Run("tiny", tmp_path / "run", config={"seeds": 2, "epochs": 4}, resume=True)
    with pytest.raises(RecordError, match="run with experiment='tiny'"):
        Run("huge", tmp_path / "run", config={"seeds": 2, "epochs": 3}, resume=True)
    with pytest.raises(RecordError, match="or pass --resume"):
        Run("tiny", tmp_path / "run", config={"seeds": 2, "epochs": 3})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RecordError, match="exists already"):
        Run("tiny", tmp_path / "other", resume=True)


def test_two_at_once_in_one_folder_are_refused(tmp_path):
    Run("tiny", tmp_path / "run", resume=True)
    with pytest.raises(RecordError, match="being written by another run"):
        Run("tiny", tmp_path / "run", resume=True)


def test_lost_metrics_are_reported_and_not_filled_in(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.on_evaluation(Evaluation(1, 8.0, {"loss": float("nan")}))
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "cost": 8.0, "measures": {"loss": None}}
    size = metrics.position()
    metrics.on_evaluation(Evaluation(2, 16.0, {}))
    metrics.restore(size)
    assert (tmp_path / "metrics.jsonl").read_text() == f"{line}\n"
    with pytest.raises(RecordError, match=f"has {size} bytes, but had {size + 1}"):
        metrics.restore(size + 1)


def test_a_damaged_configuration_is_reported(tmp_path):
    Run("tiny", tmp_path / "run").write("config.json", "{")
    with pytest.raises(RecordError, match=r"damaged config\.json"):
        Run("tiny", tmp_path / "run", resume=True)
