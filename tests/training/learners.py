"""Learners of every make, small: (loss_fn, params, batch)."""

from functools import cache
from typing import Any, NamedTuple, cast

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attent_jax import models
from attent_jax.typing import LossFn

NUM_EXAMPLES = 6


class Learner(NamedTuple):
    loss_fn: LossFn
    params: Any
    batch: Any


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@cache
def _initialized(model, shape, dtype=jnp.float32):
    """Compiled once for all learners of the same model."""
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros(shape, dtype))


def vision_transformer(dropout_rate=0.0, dtype=jnp.float32):
    model: Any = models.VisionTransformer(
        num_classes=5,
        patch_size=4,
        width=8,
        num_layers=1,
        num_heads=2,
        dropout_rate=dropout_rate,
    )
    batch = {
        "image": jnp.asarray(_normal(0, NUM_EXAMPLES, 8, 8, 1), dtype),
        "label": jnp.arange(NUM_EXAMPLES) % 5,
    }
    params = _initialized(model.clone(dropout_rate=0.0), (NUM_EXAMPLES, 8, 8, 1))

    def loss_fn(params, rng, batch):
        rngs = None if rng is None else {"dropout": rng}
        train = rng is not None
        logits = model.apply(params, batch["image"], train=train, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(
            cast(jax.Array, logits), batch["label"]
        )

    return Learner(loss_fn, jax.tree.map(lambda p: p.astype(dtype), params), batch)


def decoder(scan_layers=False):
    config = models.DecoderConfig(
        vocabulary_size=11,
        width=8,
        num_layers=2 if scan_layers else 1,
        num_heads=2,
        num_kv_heads=1,
        head_width=4,
        mlp_width=16,
        tie_embeddings=True,
    )
    model: Any = models.Decoder(config, scan_layers=scan_layers)
    # as many tokens as examples, so the batch axis has no length of its own
    tokens = jnp.asarray(
        np.random.default_rng(1).integers(0, 11, (NUM_EXAMPLES, NUM_EXAMPLES))
    )

    def loss_fn(params, rng, batch):
        logits = cast(jax.Array, model.apply(params, batch))[:, :-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
        return jnp.mean(losses, axis=-1)

    return Learner(loss_fn, _initialized(model, tokens.shape, jnp.int32), tokens)


def decoder_scanned():
    return decoder(scan_layers=True)


def decoder_with_checkpoints():
    loss_fn, params, batch = decoder()
    return Learner(jax.checkpoint(loss_fn), params, batch)


def _residual_layer(hidden, weights):
    return hidden + jnp.tanh(hidden @ weights), None


def scan_over_layers(layer=_residual_layer):
    def loss_fn(params, rng, batch):
        (x,), y = batch
        hidden, _ = jax.lax.scan(layer, x, params)
        return jnp.sum((hidden - y) ** 2, axis=-1)

    batch = ((_normal(2, NUM_EXAMPLES, 4),), _normal(3, NUM_EXAMPLES, 4))
    return Learner(
        loss_fn,
        jnp.asarray(_normal(4, 3, 4, 4) / 2, jnp.float32),
        jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), batch),
    )


def scan_over_checkpointed_layers():
    return scan_over_layers(jax.checkpoint(_residual_layer))


def vmapped():
    """A loss of one example, written by itself, with a recurrence over its tokens."""

    def loss_of_one(params, x):
        def cell(state, token):
            return jnp.tanh(state @ params["w"] + token), None

        state, _ = jax.lax.scan(cell, jnp.zeros(4), x)
        return jnp.sum(state @ params["v"]) ** 2

    def loss_fn(params, rng, batch):
        return jax.vmap(lambda x: loss_of_one(params, x))(batch)

    params = {"w": jnp.asarray(_normal(5, 4, 4)), "v": jnp.asarray(_normal(6, 4))}
    return Learner(loss_fn, params, jnp.asarray(_normal(7, NUM_EXAMPLES, 5, 4)))


def low_rank():
    """LoRA: the base is closed over, only the factors are learnt."""
    base = jnp.asarray(_normal(8, 4, 3), jnp.float32)

    def loss_fn(params, rng, batch):
        weights = base + params["a"] @ params["b"]
        flat = batch["x"].reshape(-1, 4)  # examples and tokens on one axis
        outputs = jnp.tanh(flat @ weights).reshape(-1, 2, 3)
        return jnp.sum((outputs - batch["y"]) ** 2, axis=(1, 2))

    params = {"a": jnp.asarray(_normal(9, 4, 1)), "b": jnp.asarray(_normal(10, 1, 3))}
    batch = {"x": _normal(11, NUM_EXAMPLES, 2, 4), "y": _normal(12, NUM_EXAMPLES, 2, 3)}
    return Learner(loss_fn, params, jax.tree.map(jnp.asarray, batch))


def in_nnx():
    model = nnx.MultiHeadAttention(
        num_heads=2, in_features=4, decode=False, rngs=nnx.Rngs(0)
    )
    definition, params = nnx.split(model, nnx.Param)

    def loss_fn(params, rng, batch):
        outputs = nnx.merge(definition, params)(batch)
        return jnp.mean((outputs - batch) ** 2, axis=(1, 2))

    batch = jnp.asarray(_normal(13, NUM_EXAMPLES, 3, 4), jnp.float32)
    return Learner(loss_fn, params, batch)


def in_equinox():
    model = equinox.nn.MLP(3, "scalar", 8, 2, key=jax.random.key(0))
    params, static = equinox.partition(model, equinox.is_array)

    def loss_fn(params, rng, batch):
        outputs = jax.vmap(equinox.combine(params, static))(batch["x"])
        return (outputs - batch["y"]) ** 2

    batch = {"x": _normal(14, NUM_EXAMPLES, 3), "y": _normal(15, NUM_EXAMPLES)}
    return Learner(loss_fn, params, jax.tree.map(jnp.asarray, batch))


LEARNERS = {
    "ViT": vision_transformer,
    "decoder": decoder,
    "decoder, layers scanned": decoder_scanned,
    "decoder with jax.checkpoint": decoder_with_checkpoints,
    "scan over layers": scan_over_layers,
    "scan over checkpointed layers": scan_over_checkpointed_layers,
    "vmap of one example's loss": vmapped,
    "LoRA": low_rank,
    "NNX": in_nnx,
    "Equinox": in_equinox,
}


def assert_close(one, other, tolerance=1e-6):
    """Relative to each leaf's largest entry: sums in other orders round otherwise."""

    def compare(a, b):
        scale = max(1.0, float(jnp.max(jnp.abs(b))))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)

    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(compare, one, other)
