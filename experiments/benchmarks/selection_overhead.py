"""The time of a teacher's update against NumPy's and torch's partial sorts."""

import dataclasses
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from attent_jax import selectors, teachers
from experiments.benchmarks.interleaved import table, time_interleaved
from experiments.study.workdir import environment


@dataclasses.dataclass(frozen=True)
class SelectionOverhead:
    """Time `teacher.update` on pools of scores, with a new selection at every call.

    The baseline is `numpy.argpartition(-scores, k)`, which gives indices only, and has
    no rule for ties and NaN. torch.topk (unsorted) is timed too where torch is
    installed. Ratios are to the faster of the two.
    """

    num_examples: tuple[int, ...] = (10_000, 1_000_000, 10_000_000)
    """Pool sizes."""
    ratio: float = 0.3
    """Share of the pool selected."""
    repeats: int = 15
    """Rounds; medians are printed."""


def main(config: SelectionOverhead) -> None:
    """Print a table per pool size."""
    print(environment()["device"], "| ratio", config.ratio)
    for num_examples in config.num_examples:
        scores = np.random.default_rng(0).standard_normal(num_examples, np.float32)
        contestants = _contestants(scores, config.ratio)
        seconds = time_interleaved(contestants, repeats=config.repeats)
        print(f"{num_examples:,} scores")
        peers = [name for name in seconds if not name.startswith("update")]
        print(table(seconds, min(peers, key=seconds.__getitem__)))


def _contestants(scores: np.ndarray, ratio: float) -> dict[str, Callable]:
    num_selected = int(ratio * scores.size)
    contestants: dict[str, Callable] = {
        "numpy.argpartition": lambda: np.argpartition(-scores, num_selected)
    }
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")
        tensor = torch.from_numpy(scores)
        contestants["torch.topk"] = lambda: (
            torch.topk(tensor, num_selected, sorted=False).indices
        )
    for name, select_fn in (
        ("update, top_k", selectors.top_k()),
        ("update, gumbel_top_k", selectors.gumbel_top_k(1.0)),
        ("update, uniform", selectors.uniform()),
    ):
        contestants[name] = _update(select_fn, ratio, jnp.asarray(scores))
    return contestants


def _update(select_fn, ratio: float, scores: jax.Array):
    teacher = teachers.attent(select_fn, ratio, num_warmup_epochs=0)
    state, rng = teacher.init(scores.size), jax.random.key(0)
    return lambda: teacher.update(rng, state, scores)


if __name__ == "__main__":
    main(tyro.cli(SelectionOverhead))
