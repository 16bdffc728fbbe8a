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
from jax.sharding import Mesh

from attent_jax import distributed, scores, teachers
from attent_jax.data import ArrayPool, epoch_batches
from attent_jax.typing import Params
from experiments.benchmarks.peer_rules import (
    Orders,
    Rule,
    full,
    infobatch,
    selective_backprop,
)
from experiments.demo import make_workload
from experiments.study.loop import RunSpec, train
from experiments.study.methods import STANDARD_METHODS, Method
from experiments.study.page import markdown_table
from experiments.study.paired_statistics import (
    Result,
    difference,
    mean_cost,
    mean_std,
    methods_of,
)
from experiments.study.report import PHASES, label_of
from experiments.study.study import make_mesh
from experiments.study.workdir import environment
from experiments.study.workload import Split, Workload

NO_TORCH = """\
Skipped: torch is not installed, and the peers are written in it. Install it with
  pip install torch"""
TORCH = "torch "
AT_INFOBATCHS_COST = ", at infobatch's cost"
TRAINED = "trained"
"""The examples trained on, with repetitions, beside a run's measures."""
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
    workload = make_workload()
    objective = workload.objective
    print(environment()["device"], "|", _set_up_torch(workload))
    results = []
    for seed in range(config.seeds):
        for result in _train_all(workload, seed, config.epochs):
            print(
                f"seed {seed}  {result.method:<34} {label_of(objective.measure)} "
                f"{result.measures[objective.measure]:.2f}  {_wall(result):.1f} s"
            )
            results.append(result)
    print(_table(results, objective.measure))
    return 0


def _set_up_torch(workload: Workload) -> str:
    """Check that the learners are the same, and choose torch's threads."""
    from experiments.benchmarks import torch_learner

    names = workload.load(0).train.take(np.arange(256))
    # Every category as the label of every name gives all logits up to a constant.
    num_names, num_categories = len(names["labels"]), len(workload.groups)
    pairs = {
        "tokens": np.repeat(names["tokens"], num_categories, axis=0),
        "labels": np.tile(np.arange(num_categories, dtype=np.int32), num_names),
    }
    rng = np.random.default_rng(0)
    # Trained parameters, because initial biases of 0 and scales of 1 hide mistakes.
    params = jax.tree.map(
        lambda leaf: leaf + rng.normal(scale=0.1, size=leaf.shape).astype(leaf.dtype),
        workload.init_params(jax.random.key(0)),
    )
    peer = torch_learner.TorchLearner(params, ArrayPool(pairs))
    theirs = peer.score(np.arange(len(pairs["labels"])))
    ours = np.asarray(scores.loss(workload.loss_fn)(params, None, pairs))
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


def _train_all(workload: Workload, seed: int, num_epochs: int) -> Iterator[Result]:
    """The seed's runs, theirs and ours."""
    split, mesh = workload.load(seed), make_mesh(workload)
    workload = workload._replace(load=lambda _: split)
    methods = {method.name: method for method in STANDARD_METHODS}
    orders = _orders(workload, split, seed, num_epochs)
    for rule in (full, selective_backprop):
        yield _train_peer(rule, workload, split, orders, seed, mesh)
    pruned = _train_peer(infobatch, workload, split, orders, seed, mesh)
    yield pruned
    for name in ("full", "attent-soft", "recommended"):
        budget = _cost(methods[name], workload, num_epochs)
        yield _train_ours(RunSpec(workload, methods[name], seed, budget, 1), mesh)
    for name in ("full-short", "recommended"):
        run = RunSpec(workload, methods[name], seed, pruned.cost, 1)
        result = _train_ours(run, mesh)
        yield dataclasses.replace(result, method=f"{name}{AT_INFOBATCHS_COST}")


def _orders(workload: Workload, split: Split, seed: int, num_epochs: int) -> Orders:
    """The ids of each epoch, in the order of our loop."""
    everything = teachers.full().init(len(split.train)).selection
    orders = []
    for epoch in range(num_epochs):
        batches = epoch_batches(
            split.train, everything, workload.batch_size, (seed, epoch)
        )
        ids = [ids[np.asarray(weights) > 0] for ids, _, weights in batches]
        orders.append(np.concatenate(ids))
    return orders


def _train_peer(
    rule: Rule,
    workload: Workload,
    split: Split,
    orders: Orders,
    seed: int,
    mesh: Mesh,
) -> Result:
    """Train in torch from our parameters; evaluate in JAX."""
    from experiments.benchmarks import torch_learner

    peer = torch_learner.TorchLearner(_init_params(workload, seed), split.train)
    start = time.perf_counter()
    rule(peer, orders, np.random.default_rng(seed))
    seconds = time.perf_counter() - start
    measures = workload.evaluate(
        peer.flax_params(), split.held_out, distributed.batch_sharding(mesh)
    )
    return Result(
        method=f"{TORCH}{rule.__name__.replace('_', '-')}",
        role="reference" if rule is full else "method",
        seed=seed,
        measures=measures | {TRAINED: peer.num_trained},
        cost=peer.num_trained + peer.num_scored * workload.score_cost,
        flops=math.nan,
        seconds={"train": seconds},
        num_steps=peer.num_steps,
        num_skipped=0,
        learning_rate=workload.learning_rate,
    )


def _init_params(workload: Workload, seed: int) -> Params:
    """Those that our loop starts from."""
    return jax.jit(workload.init_params)(jax.random.key(seed))


def _train_ours(run: RunSpec, mesh: Mesh) -> Result:
    result = train(run, mesh=mesh)
    trained = {TRAINED: result.num_steps * run.workload.batch_size}
    return dataclasses.replace(result, measures=result.measures | trained)


def _cost(method: Method, workload: Workload, num_epochs: int) -> float:
    """What the method costs over just so many epochs, in trained examples."""
    plan = teachers.plan(
        method.teacher(num_epochs, groups=None, mesh=None),
        num_examples=workload.num_examples,
        num_epochs=num_epochs,
        batch_size=workload.batch_size,
    )
    num_scored = plan.num_scored if method.scores == "pass" else 0
    return plan.num_steps * workload.batch_size + num_scored * workload.score_cost


def _wall(result: Result) -> float:
    return sum(result.seconds.get(phase, 0.0) for phase in PHASES)


def _table(results: list[Result], measure: str) -> str:
    """A row for each method, in Markdown, and how long ours takes beside torch."""
    walls = {(result.method, result.seed): _wall(result) for result in results}
    seeds = sorted({result.seed for result in results})
    others = [name for name in results[0].measures if name not in (measure, TRAINED)]

    def ratio(method: str, other: str) -> float:
        return float(np.median([walls[method, s] / walls[other, s] for s in seeds]))

    def mean_of(method: str, name: str) -> str:
        mean, std = mean_std(results, method, name)
        return f"{mean:.2f} ± {std:.2f}"

    head = ["rule", label_of(measure), "− own full", *map(label_of, others)]
    table = [[*head, "trained", "cost", "wall s", "of own full"]]
    for method in methods_of(results):
        own_full = f"{TORCH}full" if method.startswith(TORCH) else "full"
        delta = difference(results, method, own_full, measure)
        table.append(
            [
                method,
                mean_of(method, measure),
                "" if method == own_full else str(delta),
                *(mean_of(method, name) for name in others),
                f"{mean_std(results, method, TRAINED)[0]:,.0f}",
                f"{mean_cost(results, method):,.0f}",
                f"{np.median([walls[method, seed] for seed in seeds]):.1f}",
                f"{ratio(method, own_full):.2f}",
            ]
        )
    ours = ratio("full", f"{TORCH}full")
    return f"{markdown_table(table)}\nours / torch, full training: {ours:.2f}"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Peers)))
