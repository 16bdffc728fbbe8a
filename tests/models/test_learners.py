"""The attention learners: what they compute, and what must not leak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import (
    AttentionLearner,
    DecoderLM,
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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_heads", "num_outputs"), [(1, None), (1, 2), (3, 2)])
def test_attention_learner_is_the_papers_formula(
    num_heads, num_outputs, causal, masked
):
    model = AttentionLearner(6, num_heads, num_outputs, causal)
    # no token attends to the last two
    mask = jnp.broadcast_to(jnp.arange(5) < 3, (3, 5)) if masked else None
    variables = model.init(jax.random.key(1), TOKENS)
    allowed = np.tri(5, dtype=bool) if causal else np.ones((5, 5), bool)
    if masked:
        allowed = allowed & (np.arange(5) < 3)
    # softmax(q k) without 1/√k, or 1/√(features), is off by tenths
    np.testing.assert_allclose(
        np.asarray(model.apply(variables, TOKENS, mask)),
        attention(variables["params"], TOKENS, allowed),
        rtol=1e-4,
        atol=1e-5,
    )


LEARNERS = {
    "AttentionLearner": (AttentionLearner(6, 2, 3), TOKENS),
    "TextClassifier": (TextClassifier(10, 3, 8, 2, 2, dropout_rate=0.5), IDS),
    "DecoderLM": (DecoderLM(10, 8, 2, 2, dropout_rate=0.5), IDS),
    "VisionTransformer": (
        VisionTransformer(5, 2, 8, 2, 2, dropout_rate=0.5),
        jax.random.normal(jax.random.key(2), (3, 4, 6, 2)),
    ),
}
every_learner = pytest.mark.parametrize(
    ("model", "inputs"), LEARNERS.values(), ids=LEARNERS.keys()
)


@every_learner
def test_examples_do_not_mix(model, inputs):
    # batch statistics would make selection change the learner
    params = model.init(jax.random.key(1), inputs)
    apply = jax.jit(model.apply)
    together = apply(params, inputs)
    for row in range(len(inputs)):
        alone = apply(params, inputs[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("name", sorted(LEARNERS.keys() - {"AttentionLearner"}))
def test_dropout_is_off_unless_training(name):
    model, inputs = LEARNERS[name]
    params = model.init(jax.random.key(1), inputs)

    @jax.jit
    def dropped(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(params, inputs, train=True, rngs=rngs)

    plain = model.apply(params, inputs)  # without a key: would raise if it dropped
    assert not np.allclose(dropped(0), dropped(1))
    assert not np.allclose(dropped(0), plain)


def test_decoder_is_causal_to_the_token():
    model = LEARNERS["DecoderLM"][0]
    params = model.init(jax.random.key(1), IDS)
    logits = model.apply(params, IDS)
    assert logits.shape == (3, 6, 10)
    for position in range(6):
        changed = model.apply(params, IDS.at[:, position].set(6))
        # a mask off by one lets a token see its successor: loss 0 in the end
        np.testing.assert_allclose(
            changed[:, :position], logits[:, :position], rtol=1e-5, atol=1e-6
        )
        assert not np.allclose(changed[:, position], logits[:, position], atol=1e-3)


def test_decoder_ties_its_head_to_its_embedding():
    model = LEARNERS["DecoderLM"][0]
    params = model.init(jax.random.key(1), IDS)["params"]
    assert set(params) == {"embed", "Encoder_0"}


def test_classifier_does_not_read_padding():
    model = LEARNERS["TextClassifier"][0]
    params = model.init(jax.random.key(1), IDS)
    logits = model.apply(params, IDS)
    assert logits.shape == (3, 3)
    # if padding were read, its embedding would matter
    table = params["params"]["embed"]["embedding"]
    params["params"]["embed"]["embedding"] = table.at[0].set(100.0)
    np.testing.assert_allclose(model.apply(params, IDS), logits, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda p: model.apply(p, IDS).sum())(params)["params"]
    np.testing.assert_array_equal(gradient["embed"]["embedding"][0], np.zeros(8))
    assert np.abs(gradient["embed"]["embedding"][4]).max() > 1e-4
    positions = gradient["Encoder_0"]["positions"][0]
    assert np.abs(positions).max() > 1e-4


def test_classifier_gives_an_example_of_padding_alone_finite_logits():
    model = LEARNERS["TextClassifier"][0]
    params = model.init(jax.random.key(1), IDS)

    def total(params):
        return model.apply(params, jnp.zeros((1, 6), jnp.int32)).sum()

    value, gradient = jax.value_and_grad(total)(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_vision_transformer_sees_every_pixel_and_where_it_is():
    model, images = LEARNERS["VisionTransformer"]
    params = model.init(jax.random.key(1), images)
    assert model.apply(params, images).shape == (3, 5)
    # 4 × 6 pixels in patches of 2: six tokens
    assert params["params"]["Encoder_0"]["positions"].shape == (1, 6, 8)
    gradient = jax.grad(lambda images: model.apply(params, images).std())(images)
    assert (np.abs(gradient) > 0).all()
    swapped = jnp.flip(images, axis=2)
    assert not np.allclose(
        model.apply(params, swapped), model.apply(params, images), atol=1e-4
    )
