"""The attention learners: what they compute, and what must not leak."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import (
    AttentionLearner,
    Decoder,
    DecoderConfig,
    TextClassifier,
    VisionTransformer,
)

TOKENS = jax.random.normal(jax.random.key(0), (3, 5, 4))
IDS = jnp.array([[3, 7, 1, 9, 2, 5], [4, 4, 8, 0, 0, 0], [1, 0, 0, 0, 0, 0]])


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def attention(params, tokens, allowed):
    """The paper's formula, head by head, in float64 numpy."""
    tokens = np.asarray(tokens, np.float64)
    heads = []
    for head in range(params["query"]["kernel"].shape[1]):
        q, k, v = (
            tokens @ np.asarray(params[name]["kernel"][:, head], np.float64)
            for name in ("query", "key", "value")
        )
        logits = q @ k.swapaxes(-1, -2) / np.sqrt(k.shape[-1])
        heads.append(softmax(np.where(allowed, logits, -np.inf)) @ v)
    if "out" not in params:
        return heads[0]
    return sum(
        mixed @ np.asarray(kernel, np.float64)
        for mixed, kernel in zip(heads, params["out"]["kernel"], strict=True)
    )


def parameters(model, inputs):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), inputs),
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_heads", "num_outputs"), [(1, None), (1, 2), (3, 2)])
def test_attention_learner_is_the_papers_formula(
    num_heads, num_outputs, causal, masked
):
    model = AttentionLearner(6, num_heads, num_outputs, causal)
    # no token attends to the last two
    mask = jnp.broadcast_to(jnp.arange(5) < 3, (3, 5)) if masked else None
    variables = parameters(model, TOKENS)
    outputs = jax.jit(model.apply)(variables, TOKENS, mask)
    allowed = np.tri(5, dtype=bool) if causal else np.ones((5, 5), bool)
    if masked:
        allowed = allowed & (np.arange(5) < 3)
    # softmax(q k) without 1/√k, or 1/√(features), is off by tenths
    np.testing.assert_allclose(
        np.asarray(outputs),
        attention(variables["params"], TOKENS, allowed),
        rtol=1e-4,
        atol=1e-5,
    )


LEARNERS = {
    "AttentionLearner": (AttentionLearner(6, 2, 3), TOKENS),
    "TextClassifier": (TextClassifier(10, 3, 8, 1, 2, dropout_rate=0.5), IDS),
    "Decoder": (Decoder(DecoderConfig.tiny(10)), IDS),
    "VisionTransformer": (
        VisionTransformer(5, 2, 8, 1, 2, dropout_rate=0.5),
        jax.random.normal(jax.random.key(2), (3, 4, 6, 2)),
    ),
}


@cache
def compiled(name):
    """A learner's apply function, compiled once for all tests."""
    return jax.jit(LEARNERS[name][0].apply, static_argnames="train")


@cache
def with_parameters(name):
    """A learner's outputs on its inputs, and random parameters.

    They are drawn in NumPy: compiling the initializers takes longer than the tests.
    """
    model, inputs = LEARNERS[name]
    params = parameters(model, inputs)
    return compiled(name)(params, inputs), params


@pytest.mark.parametrize("name", LEARNERS)
def test_examples_do_not_mix(name):
    # batch statistics would make selection change the learner
    inputs = LEARNERS[name][1]
    together, params = with_parameters(name)
    for row in range(len(inputs)):
        alone = compiled(name)(params, inputs[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("name", ["TextClassifier", "VisionTransformer"])
def test_dropout_is_off_unless_training(name):
    inputs = LEARNERS[name][1]
    plain, params = with_parameters(name)  # without a key: would raise if it dropped
    one, other = (
        compiled(name)(params, inputs, train=True, rngs={"dropout": jax.random.key(i)})
        for i in range(2)
    )
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)


def test_classifier_does_not_read_padding():
    apply = compiled("TextClassifier")
    logits, params = with_parameters("TextClassifier")
    assert logits.shape == (3, 3)
    # if padding were read, its embedding would matter
    table = params["params"]["embed"]["embedding"]
    embed = {"embedding": table.at[0].set(100.0)}
    changed = {"params": params["params"] | {"embed": embed}}
    np.testing.assert_allclose(apply(changed, IDS), logits, rtol=1e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: apply(p, IDS).sum()))(changed)["params"]
    np.testing.assert_array_equal(gradient["embed"]["embedding"][0], np.zeros(8))
    assert np.abs(gradient["embed"]["embedding"][4]).max() > 1e-4
    positions = gradient["Encoder_0"]["positions"][0]
    assert np.abs(positions).max() > 1e-4


def test_classifier_gives_an_example_of_padding_alone_finite_logits():
    _, params = with_parameters("TextClassifier")

    @jax.jit
    @jax.value_and_grad
    def total(params):
        return compiled("TextClassifier")(params, jnp.zeros((1, 6), jnp.int32)).sum()

    value, gradient = total(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_vision_transformer_sees_every_pixel_and_where_it_is():
    apply, images = compiled("VisionTransformer"), LEARNERS["VisionTransformer"][1]
    logits, params = with_parameters("VisionTransformer")
    assert logits.shape == (3, 5)
    # 4 × 6 pixels in patches of 2: six tokens
    assert params["params"]["Encoder_0"]["positions"].shape == (1, 6, 8)
    gradient = jax.jit(jax.grad(lambda images: apply(params, images).std()))(images)
    assert (np.abs(gradient) > 0).all()
    swapped = jnp.flip(images, axis=2)
    assert not np.allclose(apply(params, swapped), logits, atol=1e-4)
