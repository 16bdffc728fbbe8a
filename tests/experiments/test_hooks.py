"""Each hook on its own, the evaluation's cadence, and the final evaluation."""

import io
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from attent_jax import distributed
from attent_jax.checkpointing import CheckpointError
from experiments.study import hooks as hooks_module
from experiments.study.hooks import (
    Checkpoints,
    Epoch,
    Evaluation,
    Hook,
    Metrics,
    ProgressBar,
    Snapshots,
    Steps,
    Taught,
    read_snapshots,
    read_taught,
)
from experiments.study.loop import RunSpec, train
from experiments.study.methods import STANDARD_METHODS
from experiments.study.preemption import Interruption, Preempted, TooManySkipped
from experiments.study.workdir import RecordError
from experiments.study.workload import FinalEvaluation
from tests.experiments import tiny_study
from tests.experiments.recording import Recorder

METHODS = {method.name: method for method in STANDARD_METHODS}

STEPS = Steps(
    first=10,
    ids=np.array([[4, 5, 6], [7, 8, 9]]),
    losses=np.array([0.5, np.nan]),
    is_skipped=np.array([False, True]),
    is_bad=np.array([[False, False, False], [False, True, False]]),
    is_taught=np.array([[True, False, True], [True, True, False]]),
)
EVALUATION = Evaluation(step=12, cost=36.0, measures={"accuracy": 50.0})


def epoch_at(cost, epoch=0):
    return Epoch(epoch, 12, 24, cost, 6, 4, 0.5, 1, 17, 18)


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        time = SimpleNamespace(monotonic=self.read, perf_counter=self.read)
        monkeypatch.setattr(hooks_module, "time", time)

    def read(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_metrics_are_a_line_per_epoch_evaluation_and_skipped_step(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.on_steps(STEPS)
    metrics.on_epoch(epoch_at(36.0))
    position = metrics.position()
    metrics.on_evaluation(EVALUATION)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"skipped_step": 11, "ids": [8]},
        epoch_at(36.0)._asdict(),
        EVALUATION._asdict(),
    ]
    # A resumed run writes again what came after its checkpoint.
    metrics.restore(position)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:2]
    metrics.restore(None)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_taught_are_the_rows_trained_on_in_their_order(tmp_path):
    taught = Taught(tmp_path / "taught.ids")
    taught.on_steps(STEPS)
    position = taught.position()
    taught.on_steps(STEPS)
    assert read_taught(tmp_path / "taught.ids").tolist() == [4, 6, 7, 8] * 2
    taught.restore(position)
    assert read_taught(tmp_path / "taught.ids").tolist() == [4, 6, 7, 8]


def test_the_progress_bar_shows_cost_rate_and_what_one_should_know(clock):
    output = io.StringIO()
    progress = Progress(console=Console(file=output, width=200))
    task = progress.add_task("compiling", total=1000)
    progress.update(task, completed=100)  # by earlier runs
    bar = ProgressBar(progress, task, "seed 3  full")
    bar.on_start(0, 24)
    assert output.getvalue() == ""
    bar.on_start(10, 24)
    assert "seed 3  full: continuing after step 10 of 24" in output.getvalue()
    bar.on_steps(STEPS)
    assert "step 11 skipped" in output.getvalue()
    assert "ids of such losses: [8]" in output.getvalue()
    clock.now += 4
    bar.on_epoch(epoch_at(36.0))
    assert progress.tasks[task].completed == 136
    assert (
        " ".join(progress.tasks[task].description.split()) == "seed 3 full 9 examples/s"
    )
    clock.now += 1
    bar.on_evaluation(Evaluation(20, 60.0, {}))
    assert progress.tasks[task].completed == 160
    assert progress.tasks[task].description.split()[-2] == "24"
    bar.on_final_step(3, 7)
    assert progress.tasks[task].description == "seed 3  full final evaluation, 3 of 7"


def make_checkpoints(folder, *, seconds=1e9, max_skipped=10, interruption=None):
    checkpoints = Checkpoints(
        folder,
        seconds=seconds,
        max_skipped=max_skipped,
        interruption=interruption or Interruption(),
    )
    state = {"x": np.zeros(3)}
    return checkpoints, checkpoints.resume("training", state, {"seed": 3})


def save(checkpoints, clock, num_skipped=0):
    state = {"x": np.full(3, float(clock))}
    position = {"num_skipped": num_skipped, "clock": clock}
    checkpoints.on_state("training", clock, state, position)


def test_checkpoints_are_saved_on_a_timer_and_found_again(tmp_path, clock):
    checkpoints, saved = make_checkpoints(tmp_path, seconds=60)
    assert saved is None
    assert not checkpoints.wants_state(0)
    clock.now += 59
    assert not checkpoints.wants_state(0)
    clock.now += 1
    assert checkpoints.wants_state(0)
    save(checkpoints, 1)
    assert not checkpoints.wants_state(0)
    checkpoints.close()
    again, saved = make_checkpoints(tmp_path)
    assert saved is not None
    assert saved.position == {"num_skipped": 0, "clock": 1}
    assert saved.state["x"].tolist() == [1.0] * 3
    again.close()
    with pytest.raises(CheckpointError):
        Checkpoints(
            tmp_path, seconds=1, max_skipped=1, interruption=Interruption()
        ).resume("training", {"x": np.zeros(3)}, {"seed": 4})


@pytest.mark.parametrize(
    ("signal", "error"),
    [("is_preempted", Preempted), ("is_interrupted", KeyboardInterrupt)],
)
def test_a_signal_saves_and_stops(tmp_path, signal, error):
    interruption = Interruption()
    checkpoints, _ = make_checkpoints(tmp_path, interruption=interruption)
    assert not checkpoints.wants_state(0)
    setattr(interruption, signal, True)
    assert checkpoints.wants_state(0)
    with pytest.raises(error):
        save(checkpoints, 2)
    checkpoints.close()
    again, saved = make_checkpoints(tmp_path)
    assert saved is not None
    assert saved.step == 2
    again.close()


def test_too_many_skipped_steps_save_and_stop(tmp_path):
    checkpoints, _ = make_checkpoints(tmp_path, max_skipped=2)
    assert not checkpoints.wants_state(2)
    assert checkpoints.wants_state(3)
    with pytest.raises(TooManySkipped, match="3 steps had a loss"):
        save(checkpoints, 4, num_skipped=3)
    checkpoints.close()
    again, saved = make_checkpoints(tmp_path)
    assert saved is not None
    assert saved.step == 4
    again.close()


@pytest.mark.parametrize("num_evaluations", [1, 2, 6, 1000])
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(num_evaluations):
    workload = tiny_study.WORKLOAD
    spec = RunSpec(workload, METHODS["full"], 1, 3 * 400, num_evaluations)
    num_steps = 3 * 400 // workload.batch_size
    found = spec.evaluation_steps(spec.plan())
    assert len(found) == min(num_evaluations, num_steps)
    assert found[-1] == num_steps
    gaps = np.diff([0, *found])
    assert gaps.min() > 0
    assert gaps.max() - gaps.min() <= 1


class Probe:
    """A final evaluation that depends on every step and on the trained parameters."""

    def __init__(self):
        self.steps_taken: list[int] = []

    def evaluation(self) -> FinalEvaluation:
        return FinalEvaluation(
            num_steps=lambda split: 5,
            init=lambda rng, params, split, mesh: {"w": jnp.zeros_like(params["w"])},
            step=self._step,
            result=lambda state, split: {"probe": float(jnp.sum(state["w"]))},
        )

    def _step(self, rng, state, params, split, number):
        self.steps_taken.append(number)
        noise = jax.random.normal(rng, params["w"].shape)
        return {"w": 0.5 * state["w"] + params["w"] * (number + 1) + noise}


class StopAtFinalStep(Hook):
    """Receives SIGTERM in the middle of the final evaluation."""

    def __init__(self, interruption: Interruption):
        self._interruption = interruption

    def on_final_step(self, number: int, num_steps: int) -> None:
        self._interruption.is_preempted = number == 3


def test_a_final_evaluation_interrupted_and_resumed_is_the_uninterrupted(tmp_path):
    mesh = distributed.make_mesh(devices=jax.devices()[:1])

    def run(folder, *, is_stopped=False):
        probe, recorder, interruption = Probe(), Recorder(), Interruption()
        workload = tiny_study.WORKLOAD._replace(final_evaluate=probe.evaluation())
        spec = RunSpec(workload, METHODS["recommended"], 1, 400, 1)
        checkpoints = Checkpoints(
            folder, seconds=1e9, max_skipped=10, interruption=interruption
        )
        stop = StopAtFinalStep(interruption) if is_stopped else Hook()
        hooks = [recorder, checkpoints, stop]
        try:
            return train(spec, mesh=mesh, hooks=hooks), recorder, probe
        except Preempted:
            return None, recorder, probe

    expected, whole, probe = run(tmp_path / "whole")
    assert expected is not None
    assert probe.steps_taken == [0, 1, 2, 3, 4]
    assert expected.measures["probe"] != 0
    assert "accuracy" in expected.measures
    assert whole.evaluations[-1].measures == expected.measures
    stopped, _, probe = run(tmp_path / "stopped", is_stopped=True)
    assert stopped is None
    assert probe.steps_taken == [0, 1, 2]
    resumed, recorder, probe = run(tmp_path / "stopped")
    assert resumed is not None
    assert probe.steps_taken == [3, 4]  # and no step of training
    assert not recorder.steps
    assert resumed.measures == expected.measures
    assert recorder.evaluations[-1] == whole.evaluations[-1]


def test_a_damaged_snapshot_is_named(tmp_path):
    hook = Snapshots(tmp_path)
    hook.on_snapshot(7, {"shown": np.ones(100)})
    (path,) = tmp_path.iterdir()
    for content in (path.read_bytes()[:60], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(RecordError, match=r"000000007.npz is damaged .* remove"):
            read_snapshots(tmp_path)


def test_snapshots_are_read_back_by_step(tmp_path):
    folder = tmp_path / "snapshots"
    hook = Snapshots(folder)
    hook.on_snapshot(40, {"shown": np.ones((2, 3), np.float16)})
    hook.on_snapshot(5, {"shown": np.zeros(2, bool)})
    hook.on_snapshot(40, {"shown": np.ones(4)})  # again, after an interruption
    found = read_snapshots(folder)
    assert list(found) == [5, 40]
    assert found[5]["shown"].dtype == bool
    np.testing.assert_array_equal(found[40]["shown"], np.ones(4))
