"""Handwritten digits, learnt by a small Vision Transformer."""

import jax
import numpy as np
import optax
from sklearn import datasets

from attent_jax import models
from attent_jax.data import ArrayPool
from experiments.study.command import study_command
from experiments.study.study import Experiment, Preset
from experiments.study.workload import (
    Objective,
    Split,
    Workload,
    measure_each,
    warmup_cosine,
)

NUM_TRAIN, NUM_HELD_OUT = 1_200, 597
MODEL = models.VisionTransformer(
    10, 2, width=32, num_layers=2, num_heads=2, mlp_ratio=2
)


def load(seed: int) -> Split:
    """A random split of scikit-learn's 1,797 images of 8 × 8 pixels."""
    images, labels = datasets.load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    digits = {"images": images, "labels": labels.astype(np.int32)}
    ids = np.random.default_rng(seed).permutation(len(images))
    train = {name: array[ids[:NUM_TRAIN]] for name, array in digits.items()}
    held_out = {name: array[ids[NUM_TRAIN:]] for name, array in digits.items()}
    return Split(ArrayPool(train), ArrayPool(held_out), seed, train["labels"])


def _loss(params, rng, batch):
    logits = MODEL.apply(params, batch["images"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])


def _is_correct(params, rng, batch):
    found = MODEL.apply(params, batch["images"]).argmax(axis=-1)  # pyright: ignore
    return (found == batch["labels"]).astype(np.float32)


def _evaluate(params, held_out, sharding):
    is_correct = measure_each(
        _is_correct, params, held_out, batch_size=NUM_HELD_OUT, sharding=sharding
    )
    return {"accuracy": 100 * float(is_correct.mean())}


WORKLOAD = Workload(
    name="digits",
    load=load,
    num_examples=NUM_TRAIN,
    example={
        "images": jax.ShapeDtypeStruct((8, 8, 1), np.float32),
        "labels": jax.ShapeDtypeStruct((), np.int32),
    },
    init_params=lambda rng: MODEL.init(rng, np.zeros((1, 8, 8, 1), np.float32)),
    loss_fn=_loss,
    make_optimizer=lambda num_steps, peak: optax.adamw(warmup_cosine(num_steps, peak)),
    learning_rate=6e-3,  # of 3e-3, 6e-3, 1.2e-2 the best for full on seeds 100-104
    evaluate=_evaluate,
    objective=Objective("accuracy", "%", margin=0.5),
    batch_size=32,
    score_batch_size=NUM_TRAIN,
    groups=tuple("0123456789"),
)
EXPERIMENT = Experiment(
    name="digits",
    title="Selection and its controls: handwritten digits",
    description=f"{NUM_TRAIN:,} images to train on, {NUM_HELD_OUT} to test on.",
    presets={
        "laptop": Preset("few seeds, in a minute", 30, "200-203", lambda: WORKLOAD),
        "full": Preset("20 seeds, in 5 minutes", 30, "200-219", lambda: WORKLOAD),
    },
)
COMMAND = study_command(EXPERIMENT, "Learn handwritten digits with a small ViT.")
