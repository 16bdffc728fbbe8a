"""Overhead of the training loop over the train steps."""

import dataclasses
import time

import numpy as np
import tyro

from attent_jax import teachers
from attent_jax.data import ArrayPool, epoch_batches
from attent_jax.scores import ScoreTable
from experiments import unicode_names
from experiments.benchmarks.interleaved import table, time_interleaved
from experiments.demo import BATCH_SIZE, make_learner
from experiments.study.workdir import environment


@dataclasses.dataclass(frozen=True)
class LoopOverhead:
    """Time an epoch of the demo's model at batch 64.

    The baseline takes as many steps on one batch that stays on the device. The loop
    orders the epoch and fetches each batch. Its host time between steps, for which the
    device does not have to wait, is printed separately.
    """

    repeats: int = 7
    """Rounds; medians are printed."""


def main(config: LoopOverhead) -> None:
    """Print the times, their ratio and the host's share."""
    learner = make_learner()
    pool = ArrayPool(unicode_names.load(seed=0)[0]._asdict())
    selection = teachers.full().init(len(pool)).selection
    num_steps = len(pool) // BATCH_SIZE
    ids, weights = np.arange(BATCH_SIZE), np.ones(BATCH_SIZE, np.float32)
    batch = pool.take(ids)
    host_seconds = []

    def bare():
        state, table = learner.init(0, num_steps), ScoreTable.init(len(pool))
        for _ in range(num_steps):
            state, table, _ = learner.train_step(state, table, batch, ids, weights)
        return state

    def loop():
        state, table = learner.init(0, num_steps), ScoreTable.init(len(pool))
        host, start = 0.0, time.perf_counter()
        for fetched in epoch_batches(pool, selection, BATCH_SIZE, 0):
            host += time.perf_counter() - start
            state, table, _ = learner.train_step(
                state, table, fetched.batch, fetched.ids, fetched.weights
            )
            start = time.perf_counter()
        host_seconds.append(host)
        return state

    seconds = time_interleaved(
        {"steps alone": bare, "epoch_batches + steps": loop}, repeats=config.repeats
    )
    print(environment()["device"], f"| {num_steps} steps, batch {BATCH_SIZE}")
    print(table(seconds, "steps alone"))
    share = np.median(host_seconds) / seconds["steps alone"]
    print(f"  host time between steps: {share:.2%} of the steps'")


if __name__ == "__main__":
    main(tyro.cli(LoopOverhead))
