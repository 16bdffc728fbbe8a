"""Handwritten digits, learnt by a small Vision Transformer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from attent_jax import models
from attent_jax.data import ArrayPool
from experiments.study import workload
from experiments.study.command import study_command
from experiments.study.study import Experiment, Preset
from experiments.study.workload import Objective, Split, Workload, warmup_cosine

NUM_TRAIN = 1_200
MODEL = models.VisionTransformer(
    num_classes=10, patch_size=2, width=32, num_layers=2, num_heads=2, mlp_ratio=2
)


def load(seed: int) -> Split:
    """A random split of scikit-learn's 1,797 images."""
    images, labels = datasets.load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    train, held_out = (
        {"images": images[ids], "labels": labels[ids].astype(np.int32)}
        for ids in np.split(np.random.default_rng(seed).permutation(1_797), [NUM_TRAIN])
    )
    return Split(ArrayPool(train), ArrayPool(held_out), seed, train["labels"])


def _loss(params, rng, batch):
    logits: Any = MODEL.apply(params, batch["images"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])


def _is_correct(params, rng, batch):
    logits: Any = MODEL.apply(params, batch["images"])
    return (logits.argmax(axis=-1) == batch["labels"]).astype(np.float32)


def _evaluate(params, held_out, sharding):
    is_correct = workload.measure_each(
        _is_correct, params, held_out, batch_size=NUM_TRAIN, sharding=sharding
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
    init_params=lambda rng: MODEL.init(rng, jnp.zeros((1, 8, 8, 1))),
    loss_fn=_loss,
    make_optimizer=lambda num_steps, peak: optax.adamw(warmup_cosine(num_steps, peak)),
    # full, seeds 100-109: 94.0 ± 0.9 at 3e-3, 95.2 ± 0.7 at 6e-3, 95.3 ± 1.0 at 1.2e-2
    learning_rate=6e-3,
    evaluate=_evaluate,
    objective=Objective("accuracy", "%", margin=0.5),
    batch_size=32,
    score_batch_size=NUM_TRAIN,
    groups=tuple("0123456789"),
)
EXPERIMENT = Experiment(
    name="digits",
    title="Selection and its controls: handwritten digits",
    description="1,200 images of 8 × 8 pixels to train on, 597 to test on.",
    presets={
        "laptop": Preset("few seeds, in 2 minutes", 30, "200-203", lambda: WORKLOAD),
        "full": Preset("20 seeds, in 8 minutes", 30, "200-219", lambda: WORKLOAD),
    },
)
COMMAND = study_command(EXPERIMENT, "Learn handwritten digits with a small ViT.")
