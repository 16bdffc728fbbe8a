"""Overhead of the training loop over the train steps."""

import dataclasses
import functools
import time
from collections import defaultdict
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import Mesh

from attent_jax import distributed
from attent_jax.scores import ScoreTable
from experiments.benchmarks.interleaved import table
from experiments.study.compiled import compile_for
from experiments.study.hooks import Epoch, Hook
from experiments.study.loop import RunSpec, train
from experiments.study.methods import Step, StepInfo
from experiments.study.study import find_experiment, make_mesh
from experiments.study.workdir import environment
from experiments.study.workload import Workload


@dataclasses.dataclass(frozen=True)
class LoopOverhead:
    """Time an epoch of an experiment's training.

    The baseline takes as many steps on one batch that stays on the device. The training
    loop orders its epochs, fetches each batch and reads the results of each step. Its
    host time is measured with a step that does nothing. A device with its own memory
    works during that time, and waits only where it is longer than the step.
    """

    experiment: Literal["demo", "inr"] = "demo"
    """"demo": 250 steps at batch 64. "inr": 10 steps of 50 iterations by NINT."""
    repeats: int = 7
    """Rounds; medians are printed."""


class Stopwatch(Hook):
    """Seconds from the start of training to the end of its last epoch."""

    def on_start(self, step: int, num_steps: int) -> None:
        self._start = time.perf_counter()

    def on_epoch(self, epoch: Epoch) -> None:
        self.seconds = time.perf_counter() - self._start


def do_nothing(
    workload: Workload, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Step:
    """A train step that returns the state as it is."""

    def step(state, rng, batch, weights):
        is_skipped, is_taught = jnp.zeros((), bool), weights > 0
        info = StepInfo(jnp.zeros(()), is_skipped, jnp.zeros(len(weights)), is_taught)
        return state, info

    return step


def main(config: LoopOverhead) -> None:
    """Print the times, their ratio and the host's share."""
    experiment = find_experiment(config.experiment)
    workload = next(iter(experiment.presets.values())).make_workload()
    workload = workload._replace(
        evaluate=lambda *_: {}, snapshot=None, load=functools.cache(workload.load)
    )
    name, num_epochs = {"demo": ("full", 1), "inr": ("nint", 10)}[config.experiment]
    method = next(method for method in experiment.methods if method.name == name)
    cost = num_epochs * method.step_cost(workload.score_cost) * workload.num_examples
    run = RunSpec(workload, method, 0, cost, num_evaluations=1)
    idle = run._replace(method=method._replace(make_step=do_nothing))
    mesh = make_mesh(workload)
    contestants = {
        "steps alone": lambda: steps_alone(run, mesh),
        "training loop": lambda: training_loop(run, mesh),
        "training loop, step does nothing": lambda: training_loop(idle, mesh),
    }
    rounds = defaultdict(list)
    for _ in range(1 + config.repeats):
        for name, contestant in contestants.items():
            rounds[name].append(contestant())
    # The first round compiles.
    seconds = {name: float(np.median(times[1:])) for name, times in rounds.items()}
    num_steps = sum(run.plan().steps_per_epoch)
    print(environment()["device"], f"| {num_steps} steps, batch {workload.batch_size}")
    print(table(seconds, "steps alone"))
    alone, loop, host = seconds.values()
    print(f"  the loop's time over that of its steps: {loop / alone - 1:+.1%}")
    print(f"  host time between steps: {host / alone:.1%} of the steps'")


def steps_alone(run: RunSpec, mesh: Mesh) -> float:
    """Seconds of the run's steps, all on one batch."""
    workload, num_steps = run.workload, sum(run.plan().steps_per_epoch)
    functions = compile_for(workload, run.method.make_step, mesh)
    rng, ids = jax.random.key(0), np.arange(workload.batch_size, dtype=np.int32)
    state = functions.init(rng, float(num_steps), workload.learning_rate)
    table = distributed.put(
        ScoreTable.init(workload.num_examples), distributed.replicated(mesh)
    )
    batch, weights = distributed.put(
        (workload.load(run.seed).train.take(ids), np.ones(len(ids), np.float32)),
        distributed.batch_sharding(mesh),
    )
    jax.block_until_ready((state, table, batch, weights))
    start = time.perf_counter()
    for _ in range(num_steps):
        state, table, _ = functions.step(state, table, rng, batch, ids, weights)
    jax.block_until_ready(state)
    return time.perf_counter() - start


def training_loop(run: RunSpec, mesh: Mesh) -> float:
    """Seconds of the run, without its set-up."""
    stopwatch = Stopwatch()
    train(run, mesh=mesh, hooks=[stopwatch])
    return stopwatch.seconds


if __name__ == "__main__":
    main(tyro.cli(LoopOverhead))
