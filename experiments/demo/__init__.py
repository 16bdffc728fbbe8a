"""The demo: the category of a Unicode character, learnt from its name."""

import functools
import unicodedata
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attent_jax import models
from attent_jax.data import ArrayPool
from experiments.demo import unicode_names
from experiments.study.command import study_command
from experiments.study.study import Experiment, Preset
from experiments.study.workload import (
    Objective,
    Split,
    Workload,
    mean_over,
    measure_each,
    warmup_cosine,
)

BATCH_SIZE, SCORE_BATCH_SIZE = 64, 256
LEARNING_RATE = 5.6e-3
LEARNING_RATES = tuple(
    (method, 8e-3)
    for method in ("full-short", "attent-soft", "attent-hard", "in-batch")
)
"""The best of 2.8e-3, 4e-3, 5.6e-3, 8e-3 and 1.12e-2 on seeds 100-109."""
MIN_SCRIPT_SIZE = 5
"""Test names of a script that counts in the average over scripts."""

OBJECTIVE = Objective(
    measure="accuracy_over_scripts",
    unit="%",
    margin=0.5,
    reason="the data are long-tailed, and no label shows a name's script, so that no "
    "static sampler can balance scripts",
)


def load(seed: int) -> Split:
    """Names to learn from and other names, drawn for each seed."""
    train, test = unicode_names.load(seed)
    return Split(
        train=ArrayPool({"tokens": train.tokens, "labels": train.labels}),
        held_out=ArrayPool(test._asdict()),
        fingerprint=[unicodedata.unidata_version, seed],
        groups=train.labels,
    )


@functools.cache
def make_workload() -> Workload:
    """A two-layer transformer on 16,000 names."""
    model = models.TextClassifier(
        vocabulary_size=unicode_names.VOCABULARY_SIZE,
        num_classes=len(unicode_names.categories()),
        width=48,
        num_layers=2,
        num_heads=2,
        mlp_ratio=2,
    )

    def logits_of(params, batch) -> jax.Array:
        return cast(jax.Array, model.apply(params, batch["tokens"]))

    def loss_fn(params, rng, batch):
        logits = logits_of(params, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])

    def is_correct(params, rng, batch):
        predicted = jnp.argmax(logits_of(params, batch), axis=-1)
        return (predicted == batch["labels"]).astype(jnp.float32)

    def evaluate(params, held_out, sharding):
        correct = measure_each(
            is_correct,
            params,
            held_out,
            batch_size=SCORE_BATCH_SIZE,
            sharding=sharding,
        )
        test = held_out.take(np.arange(len(held_out)))
        accuracy_over = {
            "scripts": mean_over(test["scripts"], correct, min_size=MIN_SCRIPT_SIZE),
            "categories": mean_over(test["labels"], correct),
        }
        return {"accuracy": 100 * float(correct.mean())} | {
            f"accuracy_over_{groups}": 100 * mean
            for groups, mean in accuracy_over.items()
        }

    return Workload(
        name="demo",
        load=load,
        num_examples=unicode_names.NUM_TRAIN,
        example={
            "tokens": jax.ShapeDtypeStruct((unicode_names.NUM_TOKENS,), np.int32),
            "labels": jax.ShapeDtypeStruct((), np.int32),
        },
        init_params=lambda rng: model.init(
            rng, jnp.zeros((1, unicode_names.NUM_TOKENS), jnp.int32)
        ),
        loss_fn=loss_fn,
        make_optimizer=lambda num_steps, learning_rate: optax.adamw(
            warmup_cosine(num_steps, learning_rate)
        ),
        learning_rate=LEARNING_RATE,
        learning_rates=LEARNING_RATES,
        evaluate=evaluate,
        objective=OBJECTIVE,
        batch_size=BATCH_SIZE,
        score_batch_size=SCORE_BATCH_SIZE,
        groups=unicode_names.categories(),
    )


EXPERIMENT = Experiment(
    name="demo",
    title="Selection and its controls: character names → Unicode categories",
    description=(
        f"{unicode_names.NUM_TRAIN:,} names to train on, {unicode_names.NUM_TEST:,} to "
        f"test on, of Unicode {unicodedata.unidata_version}."
    ),
    presets={
        "laptop": Preset(
            "few seeds, in 3 minutes on two cores", 6, "200-202", make_workload
        ),
        "full": Preset("20 seeds, in 16 minutes", 6, "200-219", make_workload),
    },
)

COMMAND = study_command(
    EXPERIMENT,
    """Learn the category of Unicode characters from their names, in nine ways.

    A two-layer transformer learns the general category of a character from its name
    (16,000 names, 12,000 more to test on). "full" trains on everything for six epochs.
    Every other method gets half of that cost, scoring included, and its learning rate
    decays over its own steps. The controls are "full-short", "random" (subsets kept as
    long as AtteNT's), "random-fresh" (subsets drawn each epoch, as the recommended
    teacher's) and "balanced", which uses the labels' frequencies. "attent-soft" and
    "attent-hard" are the paper's AtteNT (ratio 0.2 -> 0.8, interval 1 -> 5, scoring
    passes). "recommended" is this library's default, which scores by the losses of
    training. "in-batch" trains on the harder half of each batch.

    Writes report.md, report.json, two figures, and a folder for each run. Ctrl-C
    reports the runs completed so far, --resume continues.
    """,
)
