"""Small scenes of three modalities, and random parameters."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attent_jax import models

NUM_CLASSES, SIDE, BATCH = 5, 8, 3
MODEL: Any = models.MultiMAE.tiny(NUM_CLASSES)
MODALITIES = MODEL.encoder.modalities
NUM_TOKENS = (4, 4, 4)


def scenes(batch_size: int = BATCH, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch as data sets have it: some depth and some labels are missing."""
    draw = np.random.default_rng(seed)
    depth = draw.uniform(1, 5, (batch_size, SIDE, SIDE)).astype(np.float32)
    depth[0, :5, :3] = np.nan
    labels = draw.integers(0, NUM_CLASSES, (batch_size, SIDE // 2, SIDE // 2), np.uint8)
    labels[1, :3] = 255
    return {
        "rgb": draw.integers(0, 256, (batch_size, SIDE, SIDE, 3), np.uint8),
        "depth": depth,
        "semantics": labels,
        "id": np.arange(10, 10 + batch_size),
    }


def parameters(model, *inputs):
    """Drawn in NumPy: compiling the initializers takes longer than the tests."""
    draw = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * draw.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), *inputs),
    )


@cache
def params_of(model):
    return parameters(model, models.blank_inputs(model.encoder.modalities, SIDE))


@cache
def prepared():
    return models.prepare_inputs(MODALITIES, scenes())


@cache
def mask_of(num_visible: int) -> models.TokenMask:
    rngs = jax.random.split(jax.random.key(4), BATCH)
    return models.dirichlet_masks(rngs, NUM_TOKENS, num_visible)
