"""Compare ways to select examples with their controls, on a small transformer."""

import dataclasses
import functools
import unicodedata
from typing import Annotated, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.experimental import multihost_utils

from attent_jax import (
    models,
    schedules,
    scores,
    selectors,
    teachers,
    training,
)
from attent_jax.data import ArrayPool
from attent_jax.typing import SelectFn
from experiments import unicode_names
from experiments.budgets import Method
from experiments.comparison import FULL
from experiments.loop import Learner
from experiments.options import RunOptions
from experiments.study import Study, Task
from experiments.workdir import Run

MethodName = Literal[
    "full",
    "full-short",
    "random",
    "random-fresh",
    "balanced",
    "attent-soft",
    "attent-hard",
    "recommended",
]
BATCH_SIZE, SCORE_BATCH_SIZE = 64, 256
PEAK_LEARNING_RATE, WARMUP_SHARE = 4e-3, 0.05
"""The best of 2e-3, 4e-3, 8e-3 for "full", on seeds that the demo does not use."""
MARGIN = 0.25
"""δ of non-inferiority, in points of accuracy; set before the first run."""


@dataclasses.dataclass(frozen=True)
class Demo(RunOptions):
    """Learn the category of Unicode characters from their names, in eight ways.

    A two-layer transformer learns the general category of a character from its name
    (16,000 names, 12,000 more to test on). "full" trains on everything for --epochs.
    Every other method gets half of that cost, scoring included, and its learning rate
    decays over its own steps. The controls are "full-short", "random" (subsets kept as
    long as AtteNT's) and "random-fresh" (subsets drawn each epoch, as the recommended
    teacher's). "balanced" uses the labels' frequencies. "attent-soft" and "attent-hard"
    are the paper's AtteNT (ratio 0.2 -> 0.8, interval 1 -> 5, scoring passes).
    "recommended" is this library's default, which scores by the losses of training.

    Writes report.md, report.json, metrics.jsonl and two figures. Takes 2 to 3 minutes
    on two cores. Ctrl-C reports the runs completed so far, --resume continues.
    """

    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 6
    """Repetitions, each with its own data split, parameters, order and selection. An
    interval needs at least two."""
    epochs: Annotated[int, tyro.conf.arg(metavar="N")] = 6
    """Epochs of "full", at least 2; every other method costs half of that."""
    methods: tuple[MethodName, ...] = get_args(MethodName)
    """Methods to run; a verdict needs "full" and the three controls."""

    def __post_init__(self):
        super().__post_init__()
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}.")
        if self.epochs < 2:
            raise ValueError(
                f"epochs must be at least 2, got {self.epochs}: the methods get half."
            )
        if not self.methods:
            raise ValueError("methods is empty: name at least one.")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods has duplicates: {' '.join(self.methods)}.")


def _soft(rng, losses, num_selected, /):
    """The paper's Soft selection; the temperature is one standard deviation."""
    standardized, _ = scores.standardize().update(losses, ())
    return selectors.gumbel_top_k(1.0)(rng, standardized, num_selected)


def _paper(name: str, select_fn: SelectFn, *, scores_by_pass: bool) -> Method:
    """The paper's plan: rising ratio and interval, one warm-up epoch."""

    def make_teacher(num_epochs):
        return teachers.attent(
            select_fn,
            ratio=schedules.linear(0.2, 0.8, num_epochs),
            interval=schedules.linear(1, 5, num_epochs),
        )

    return Method(name, make_teacher, scores_by_pass)


METHODS = [
    Method("full", lambda num_epochs: teachers.full()),
    Method("full-short", lambda num_epochs: teachers.full()),
    _paper("random", selectors.uniform(), scores_by_pass=False),
    _paper("attent-soft", _soft, scores_by_pass=True),
    _paper("attent-hard", selectors.top_k(), scores_by_pass=True),
    Method(
        "random-fresh",
        lambda num_epochs: teachers.attent(
            selectors.uniform(), ratio=0.3, num_warmup_epochs=0.5
        ),
    ),
    Method("recommended", teachers.recommended),
]


def balanced(labels: np.ndarray) -> Method:
    """Draw by label each epoch, as many examples as the recommended teacher."""
    select_fn = selectors.balanced(labels, power=0.5)
    return Method(
        "balanced",
        lambda num_epochs: teachers.attent(select_fn, ratio=0.3, num_warmup_epochs=0),
    )


def _optimizer(num_steps: float) -> optax.GradientTransformation:
    """AdamW with a warm-up and a cosine decay to 0 at `num_steps`."""

    def learning_rate(step):
        done = step / num_steps
        warm = jnp.minimum(done / WARMUP_SHARE, 1)
        cooled = jnp.maximum(done - WARMUP_SHARE, 0) / (1 - WARMUP_SHARE)
        return PEAK_LEARNING_RATE * warm * (1 + jnp.cos(jnp.pi * cooled)) / 2

    return optax.adamw(learning_rate)


def make_learner() -> Learner:
    """The learner, compiled once for all methods and seeds."""
    model = models.TextClassifier(
        vocabulary_size=unicode_names.VOCABULARY_SIZE,
        num_classes=len(unicode_names.categories()),
        width=48,
        num_layers=2,
        num_heads=2,
        mlp_ratio=2,
    )
    # The number of steps is part of the optimizer's state, so it compiles once.
    optimizer = optax.inject_hyperparams(_optimizer)(num_steps=1.0)

    def logits_of(params, batch) -> jax.Array:
        return cast(jax.Array, model.apply(params, batch["tokens"]))

    def loss_fn(params, rng, batch):
        logits = logits_of(params, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])

    def is_correct(params, rng, batch):
        predicted = jnp.argmax(logits_of(params, batch), axis=-1)
        return (predicted == batch["labels"]).astype(jnp.float32)

    train_step = training.make_train_step(loss_fn, optimizer)
    score_fn = scores.loss(loss_fn)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(state, table, batch, ids, weights):
        state, info = train_step(state, None, batch, weights)
        return state, table.update(ids, info.losses, weights), info

    @jax.jit
    def init_state(rng):
        params = model.init(rng, batch_of(1)["tokens"])
        return training.init_train_state(params, optimizer)

    def init(seed, num_steps):
        state = init_state(jax.random.key(seed))
        state.opt_state.hyperparams["num_steps"] = jnp.array(num_steps, jnp.float32)
        return state

    def evaluate(params, held_out, sharding):
        correct = training.score_pool(
            is_correct,
            params,
            held_out,
            batch_size=SCORE_BATCH_SIZE,
            sharding=sharding,
        )
        # Each process has a part of them.
        correct = multihost_utils.process_allgather(correct, tiled=True)
        labels = held_out.take(np.arange(len(held_out)))["labels"]
        of_category = [correct[labels == label].mean() for label in np.unique(labels)]
        return {
            "quality": 100 * float(correct.mean()),
            "macro_accuracy": 100 * float(np.mean(of_category)),
        }

    def batch_of(num_examples):
        return {
            "tokens": jnp.zeros((num_examples, unicode_names.NUM_TOKENS), jnp.int32),
            "labels": jnp.zeros(num_examples, jnp.int32),
        }

    def flops(compiled, *arguments) -> float:
        return (compiled.lower(*arguments).cost_analysis() or {})["flops"]

    state, weights = init(0, 1), jnp.ones(BATCH_SIZE)
    step_flops = flops(train_step, state, None, batch_of(BATCH_SIZE), weights)
    score_flops = flops(jax.jit(score_fn), state.params, None, batch_of(1))
    return Learner(
        init=init,
        train_step=step,
        score_fn=score_fn,
        evaluate=evaluate,
        batch_size=BATCH_SIZE,
        score_batch_size=SCORE_BATCH_SIZE,
        step_flops=step_flops,
        score_flops=score_flops,
    )


def main(config: Demo) -> int:
    """Run the demo; returns the exit status."""

    def load(seed: int) -> Task:
        train, test = unicode_names.load(seed)
        named = {m.name: m for m in [*METHODS, balanced(train.labels)]}
        return Task(
            pool=ArrayPool(train._asdict()),
            held_out=ArrayPool(test._asdict()),
            labels=train.labels,
            methods=[named[name] for name in config.methods],
        )

    budget = unicode_names.NUM_TRAIN * config.epochs
    options = {field.name for field in dataclasses.fields(RunOptions)}
    workload = {k: v for k, v in dataclasses.asdict(config).items() if k not in options}
    workload |= {"batch_size": BATCH_SIZE, "peak_learning_rate": PEAK_LEARNING_RATE}
    study = Study(
        run=Run("demo", config.out, config=workload, resume=config.resume),
        title="Selection and its controls: character names → Unicode categories",
        description=(
            f"{unicode_names.NUM_TRAIN:,} names to train on, "
            f"{unicode_names.NUM_TEST:,} to test on, of Unicode "
            f"{unicodedata.unidata_version}; full trains for {config.epochs} epochs."
        ),
        config=dataclasses.asdict(config) | {"out": str(config.out)},
        checkpoint_seconds=config.checkpoint_every,
        max_skipped_steps=config.max_skipped_steps,
        classes=unicode_names.categories(),
        margin=MARGIN,
    )
    budgets = {name: budget if name == FULL else budget / 2 for name in config.methods}
    return study.execute(make_learner, load, budgets, config.seeds)
