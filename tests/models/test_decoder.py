"""The decoder: who sees whom, whatever the layout of the batch."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import Decoder, DecoderCache, DecoderConfig

TINY = DecoderConfig.tiny(vocabulary_size=19)
CONFIGS = {
    "Llama": TINY,
    "Mistral": dataclasses.replace(TINY, sliding_window=3, tie_embeddings=False),
    "Gemma": dataclasses.replace(
        TINY,
        num_kv_heads=1,
        activation="gelu",
        norm_offset=1.0,
        scale_embeddings=True,
    ),
}
each_family = pytest.mark.parametrize("family", CONFIGS)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 19, (2, 7)))


@cache
def model_of(family, **options) -> Any:
    return Decoder(CONFIGS[family], **options)


@cache
def params_of(family):
    """Drawn in NumPy, large enough that every part matters."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(model_of(family).init, jax.random.key(0), TOKENS),
    )


@cache
def compiled(family):
    params, model = params_of(family), model_of(family)
    return jax.jit(lambda *args: model.apply(params, *args))


def stacked(params):
    """Parameters of single layers as those of a scan over layers."""
    params = dict(params["params"])
    each = [params.pop(f"layers_{n}") for n in range(TINY.num_layers)]
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return {"params": params | {"layers": layers}}


def assert_close(one, other, tolerance=1e-5):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@each_family
def test_a_token_sees_those_before_it_within_the_window(family):
    logits = compiled(family)(TOKENS)
    assert logits.shape == (2, 7, 19)
    # two layers: a window of 3 passes information on over 2 · (3 − 1) tokens
    reach = 4 if family == "Mistral" else 7
    for position in range(7):
        changed = compiled(family)(TOKENS.at[:, position].set(0))
        # a mask off by one lets a token see its successor: loss 0 in the end
        moved = np.abs(changed - logits).max(axis=(0, 2)) > 1e-5
        seen = range(position, min(position + reach + 1, 7))
        assert np.flatnonzero(moved).tolist() == list(seen)


@each_family
def test_padding_on_either_side_changes_nothing(family):
    expected = compiled(family)(TOKENS)
    for left, right in ((0, 3), (3, 0), (2, 1)):
        pad = ((0, 0), (left, right))
        tokens = jnp.pad(TOKENS, pad, constant_values=5)
        segment_ids = jnp.pad(jnp.ones_like(TOKENS), pad)
        logits = compiled(family)(tokens, segment_ids)
        assert_close(logits[:, left : left + 7], expected)
        assert np.isfinite(logits).all()


@each_family
def test_packed_sequences_are_as_if_alone(family):
    packed = jnp.concatenate([TOKENS[:1], TOKENS[1:, :3], TOKENS[:1, :2]], axis=1)
    segment_ids = jnp.array([[1] * 7 + [2] * 3 + [3] * 2])
    logits = compiled(family)(packed, segment_ids)[0]
    alone = compiled(family)(TOKENS)
    assert_close(logits[:7], alone[0])
    assert_close(logits[7:10], alone[1, :3])
    assert_close(logits[10:], alone[0, :2])


def test_gradients_of_padding_are_finite():
    segment_ids = jnp.array([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    params = params_of("Llama")

    def loss(params):
        return jnp.sum(model_of("Llama").apply(params, TOKENS, segment_ids))

    gradients = jax.jit(jax.grad(loss))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_scan_and_remat_change_neither_logits_nor_gradients():
    params = params_of("Mistral")

    def loss(params, model):
        logits = model.apply(params, TOKENS)
        return jnp.sum(jnp.sin(logits)), logits

    def evaluate(params, **options):
        model = model_of("Mistral", **options)
        return jax.jit(jax.grad(lambda p: loss(p, model), has_aux=True))(params)

    expected, logits = evaluate(params)
    gradients, again = evaluate(stacked(params), scan_layers=True, remat=True)
    assert_close(again, logits)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), gradients, stacked(expected))


def test_half_precision_is_near_and_its_logits_are_float32():
    params = params_of("Gemma")
    exact = compiled("Gemma")(TOKENS)
    rough = jax.jit(model_of("Gemma", dtype=jnp.bfloat16).apply)(params, TOKENS)
    assert rough.dtype == jnp.float32
    scale = np.abs(exact).max()
    assert 1e-4 < np.abs(rough - exact).max() / scale < 0.05


@pytest.mark.parametrize(
    ("family", "scan_layers"), [("Llama", False), ("Mistral", True), ("Gemma", False)]
)
def test_extending_by_the_cache_equals_the_full_pass(family, scan_layers):
    model = model_of(family, scan_layers=scan_layers)
    params = params_of(family)
    own = stacked(params) if scan_layers else params
    expected = compiled(family)(TOKENS)
    extend = jax.jit(lambda *args: model.apply(own, *args, method="extend"))
    # the second prompt is shorter, and padded on the left
    is_token = jnp.array([[True] * 4, [False] * 2 + [True] * 2])
    prompts = jnp.stack([TOKENS[0, :4], jnp.pad(TOKENS[1, :2], (2, 0))])
    cache = DecoderCache.empty(CONFIGS[family], 2, 8, jnp.float32)
    logits, cache = extend(prompts, cache, is_token)
    assert_close(logits, jnp.stack([expected[0, 3], expected[1, 1]]))
    for step in range(3):
        tokens = jnp.stack([TOKENS[0, 4 + step], TOKENS[1, 2 + step]])[:, None]
        logits, cache = extend(tokens, cache)
        assert_close(logits, jnp.stack([expected[0, 4 + step], expected[1, 2 + step]]))
    assert cache.num_tokens.tolist() == [7, 5]
    assert int(cache.num_filled) == 7


def test_a_cache_that_is_too_short_is_refused():
    cache = DecoderCache.empty(TINY, 2, 5, jnp.float32)
    with pytest.raises(ValueError, match="5 slots, which is too few for 7 tokens"):
        model_of("Llama").apply(params_of("Llama"), TOKENS, cache, method="extend")


@pytest.mark.parametrize(
    ("preset", "num_params"),
    [
        (DecoderConfig.llama_125m, 123_587_328),
        (DecoderConfig.llama_350m, 359_842_816),
        # as published
        (DecoderConfig.llama2_7b, 6_738_415_616),
        (DecoderConfig.mistral_7b, 7_241_732_096),
        (DecoderConfig.gemma_7b, 8_537_680_896),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset, num_params):
    model = Decoder(preset(), scan_layers=True)
    params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "num_heads is 3 and num_kv_heads 2: choose"),
        ({"head_width": 7}, "head_width must be even, got 7"),
        ({"activation": "relu"}, "activation must be 'silu' or 'gelu', got 'relu'"),
        ({"sliding_window": 0}, "sliding_window must be at least 1, got 0"),
        ({"rope_theta": 0.0}, "rope_theta must lie in"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_configurations_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)
