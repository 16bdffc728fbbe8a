"""Published selection rules in torch against this library's teachers."""

import dataclasses
import importlib.util
import math
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated

import jax
import numpy as np
import tyro

from attent_jax import teachers
from attent_jax.data import ArrayPool, epoch_batches
from experiments import unicode_names
from experiments.benchmarks.peer_rules import (
    Orders,
    Rule,
    full,
    infobatch,
    selective_backprop,
)
from experiments.budgets import SCORE_COST, Method, fit_to_budget
from experiments.comparison import FULL, Row, difference, mean_std, methods_of
from experiments.demo import BATCH_SIZE, METHODS, make_learner
from experiments.loop import Learner, Observer, teach
from experiments.study.workdir import environment

NO_TORCH = """\
Skipped: torch is not installed, and the peers are written in it. Install it with
  pip install torch"""
TORCH = "torch "
AT_INFOBATCHS_COST = ", at infobatch's cost"
TOLERANCE = 1e-4
"""Of log-probabilities, torch's against Flax's."""


@dataclasses.dataclass(frozen=True)
class Peers:
    """Train the demo's learner with published rules in torch, and with ours in JAX.

    "torch full", "torch selective-backprop" (Jiang et al. 2019) and "torch infobatch"
    (Qin et al. 2024) start from the parameters of ours and pass over the same data in
    the same order; all rules run for --epochs. The last two rows cost what InfoBatch
    cost with that seed: full training on a shorter, fully decayed schedule, which is
    the control, and this library's default. Costs are trained examples, plus a third
    per scored example. Times are medians over seeds, without compilation and
    evaluation. Ratios are to full training in the same framework. Torch runs eagerly.
    """

    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """Repetitions, each with its own data split, parameters and order."""
    epochs: Annotated[int, tyro.conf.arg(metavar="N")] = 6
    """Passes over the data, at least 3."""

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}.")
        if self.epochs < 3:
            raise ValueError(
                f"epochs must be at least 3, got {self.epochs}: teachers.recommended "
                f"needs as many."
            )


def main(config: Peers) -> int:
    """Print a line per run, then the table; returns the exit status."""
    if importlib.util.find_spec("torch") is None:
        print(NO_TORCH)
        return 0
    learner = make_learner()
    print(environment()["device"], "|", _set_up_torch(learner))
    rows = []
    for seed in range(config.seeds):
        for row in _train_all(learner, seed, config.epochs):
            print(
                f"seed {seed}  {row.method:<34} {row.quality:.2f} %  {_wall(row):.1f} s"
            )
            rows.append(row)
    print(_table(rows))
    return 0


def _set_up_torch(learner: Learner) -> str:
    """Check that the learners are the same, and choose torch's threads."""
    from experiments.benchmarks import torch_learner

    names, _ = unicode_names.load(seed=0)
    # Every category as the label of every name gives all logits up to a constant.
    num_names, num_categories = 256, len(unicode_names.categories())
    pairs = unicode_names.Names(
        np.repeat(names.tokens[:num_names], num_categories, axis=0),
        np.tile(np.arange(num_categories, dtype=np.int32), num_names),
    )
    rng = np.random.default_rng(0)
    # Trained parameters, because initial biases of 0 and scales of 1 hide mistakes.
    params = jax.tree.map(
        lambda leaf: leaf + rng.normal(scale=0.1, size=leaf.shape).astype(leaf.dtype),
        learner.init(0, 1).params,
    )
    peer = torch_learner.TorchLearner(params, pairs)
    theirs = peer.score(np.arange(len(pairs.labels)))
    ours = np.asarray(learner.score_fn(params, None, pairs._asdict()))
    deviation = float(np.abs(theirs - ours).max())
    if not deviation <= TOLERANCE:
        raise AssertionError(
            f"torch's log-probabilities deviate from Flax's by {deviation:.1e}, more "
            f"than {TOLERANCE:g}: torch_learner.logits is not models.TextClassifier."
        )
    num_threads = torch_learner.use_fastest_threads(peer)
    return (
        f"torch {version('torch')}, num_threads={num_threads} (the fastest), "
        f"log-probabilities equal to {deviation:.0e}"
    )


def _train_all(learner: Learner, seed: int, num_epochs: int) -> Iterator[Row]:
    """The seed's runs, theirs and ours."""
    names, held_out_names = unicode_names.load(seed)
    pool, held_out = ArrayPool(names._asdict()), ArrayPool(held_out_names._asdict())
    everything = teachers.full().init(len(pool)).selection
    # As teach orders its own epochs.
    orders = []
    for epoch in range(num_epochs):
        batches = epoch_batches(pool, everything, BATCH_SIZE, (seed, epoch))
        ids = [ids[np.asarray(weights) > 0] for ids, _, weights in batches]
        orders.append(np.concatenate(ids))
    named = {method.name: method for method in METHODS}

    def taught(name: str, method: Method, budget: float) -> Row:
        return _train_ours(name, method, learner, pool, held_out, seed, budget)

    for rule in (full, selective_backprop):
        yield _train_peer(rule, learner, names, held_out, orders, seed)
    pruned = _train_peer(infobatch, learner, names, held_out, orders, seed)
    yield pruned
    for name in (FULL, "attent-soft", "recommended"):
        yield taught(name, named[name], _cost(named[name], len(pool), num_epochs))
    for name in ("full-short", "recommended"):
        yield taught(f"{name}{AT_INFOBATCHS_COST}", named[name], pruned.cost_examples)


def _train_peer(
    rule: Rule,
    learner: Learner,
    names: unicode_names.Names,
    held_out: ArrayPool,
    orders: Orders,
    seed: int,
) -> Row:
    """Train in torch from our parameters; evaluate in JAX."""
    from experiments.benchmarks import torch_learner

    peer = torch_learner.TorchLearner(learner.init(seed, 1).params, names)
    start = time.perf_counter()
    rule(peer, orders, np.random.default_rng(seed))
    seconds = time.perf_counter() - start
    measures = learner.evaluate(peer.flax_params(), held_out, None)
    return Row(
        method=f"{TORCH}{rule.__name__.replace('_', '-')}",
        seed=seed,
        quality=measures.pop("quality"),
        wall_train_s=seconds,
        wall_score_s=0.0,
        wall_select_s=0.0,
        wall_eval_s=0.0,
        compile_s=0.0,
        cost_examples=peer.num_trained + peer.num_scored * SCORE_COST,
        flops=math.nan,
        details=measures | {"trained": peer.num_trained},
    )


def _train_ours(
    name: str,
    method: Method,
    learner: Learner,
    pool: ArrayPool,
    held_out: ArrayPool,
    seed: int,
    budget: float,
) -> Row:
    row, _ = teach(
        method,
        learner,
        pool,
        held_out,
        seed=seed,
        budget=budget,
        eval_every=math.inf,
        observer=Observer(),
    )
    _, steps = fit_to_budget(
        method, num_examples=len(pool), batch_size=BATCH_SIZE, budget=budget
    )
    trained = {"trained": sum(steps) * BATCH_SIZE}
    return dataclasses.replace(row, method=name, details=row.details | trained)


def _cost(method: Method, num_examples: int, num_epochs: int) -> float:
    """What the method costs over just so many epochs, in examples trained."""
    plan = teachers.plan(
        method.make_teacher(num_epochs),
        num_examples=num_examples,
        num_epochs=num_epochs,
        batch_size=BATCH_SIZE,
    )
    scored = plan.num_scored * method.scores_by_pass
    return plan.num_steps * BATCH_SIZE + scored * SCORE_COST


def _wall(row: Row) -> float:
    return row.wall_train_s + row.wall_score_s + row.wall_select_s


def _table(rows: list[Row]) -> str:
    """A row a method, in Markdown, and how long ours takes beside torch."""
    walls = {(row.method, row.seed): _wall(row) for row in rows}
    seeds = sorted({row.seed for row in rows})

    def ratio(method: str, other: str) -> float:
        return float(np.median([walls[method, s] / walls[other, s] for s in seeds]))

    def mean(method: str, measure: str) -> float:
        return mean_std(rows, method, measure)[0]

    lines = [
        f"| {'rule':<34} | accuracy %   | − own full           | macro %    "
        f"| trained | cost   | wall s | of own full |",
        f"|{'-' * 36}|{'-' * 14}|{'-' * 22}|{'-' * 12}|{'-' * 9}|{'-' * 8}|{'-' * 8}"
        f"|{'-' * 13}|",
    ]
    for method in methods_of(rows):
        own_full = f"{TORCH}{FULL}" if method.startswith(TORCH) else FULL
        accuracy = mean_std(rows, method)
        macro = mean_std(rows, method, "macro_accuracy")
        delta = difference(rows, method, own_full) if method != own_full else ""
        wall = float(np.median([walls[method, seed] for seed in seeds]))
        lines.append(
            f"| {method:<34} | {accuracy[0]:.2f} ± {accuracy[1]:4.2f} | {delta!s:<20} "
            f"| {macro[0]:.1f} ± {macro[1]:3.1f} | {mean(method, 'trained'):>7,.0f} "
            f"| {mean(method, 'cost_examples'):>6,.0f} | {wall:>6.1f} "
            f"| {ratio(method, own_full):>11.2f} |"
        )
    lines.append(f"ours / torch, full training: {ratio(FULL, f'{TORCH}{FULL}'):.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Peers)))
