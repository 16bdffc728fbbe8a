"""`score_pool` against a bare jitted forward over the same data."""

import dataclasses

import jax
import numpy as np
import tyro

from attent_jax import scores
from attent_jax.training import score_pool
from experiments.benchmarks.interleaved import table, time_interleaved
from experiments.demo import make_workload
from experiments.study.workdir import environment


@dataclasses.dataclass(frozen=True)
class ScoringThroughput:
    """Time a scoring pass over the demo's pool.

    The baseline calls the same jitted function on batches cut in advance.
    """

    batch_size: int = 250
    """Examples per call, for both; a divisor of 16,000, so that neither pads."""
    repeats: int = 9
    """Rounds; medians are printed."""


def main(config: ScoringThroughput) -> None:
    """Print the two times and their ratio."""
    workload = make_workload()
    params = workload.init_params(jax.random.key(0))
    score_fn, pool = scores.loss(workload.loss_fn), workload.load(0).train
    ids = np.arange(len(pool)).reshape(-1, config.batch_size)
    batches = [pool.take(row) for row in ids]
    forward = jax.jit(score_fn)
    seconds = time_interleaved(
        {
            "bare forward": lambda: [forward(params, None, batch) for batch in batches],
            "score_pool": lambda: score_pool(
                score_fn, params, pool, batch_size=config.batch_size
            ),
        },
        repeats=config.repeats,
    )
    print(environment()["device"], f"| {len(pool):,} examples")
    print(table(seconds, "bare forward"))


if __name__ == "__main__":
    main(tyro.cli(ScoringThroughput))
