"""`score_pool` against a bare jitted forward over the same data."""

import dataclasses

import jax
import numpy as np
import tyro

from attent_jax.data import ArrayPool
from attent_jax.training import score_pool
from experiments import unicode_names
from experiments.benchmarks.interleaved import table, time_interleaved
from experiments.demo import make_learner
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
    learner = make_learner()
    params = learner.init(0, 1).params
    examples = unicode_names.load(seed=0)[0]._asdict()
    pool = ArrayPool(examples)
    ids = np.arange(len(pool)).reshape(-1, config.batch_size)
    batches = [pool.take(row) for row in ids]
    forward = jax.jit(learner.score_fn)
    seconds = time_interleaved(
        {
            "bare forward": lambda: [forward(params, None, batch) for batch in batches],
            "score_pool": lambda: score_pool(
                learner.score_fn, params, pool, batch_size=config.batch_size
            ),
        },
        repeats=config.repeats,
    )
    print(environment()["device"], f"| {len(pool):,} examples")
    print(table(seconds, "bare forward"))


if __name__ == "__main__":
    main(tyro.cli(ScoringThroughput))
