"""Generation: its loop equals the full pass, and sampling has the right odds."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import Decoder, DecoderConfig, generate
from attent_jax.models._generate import _draw, _Sampling
from tests.compilations import compilations

CONFIG = dataclasses.replace(DecoderConfig.tiny(vocabulary_size=13), sliding_window=3)
MODEL: Any = Decoder(CONFIG, scan_layers=True)
PROMPTS = jnp.array([[3, 7, 1, 9], [4, 8, 0, 0]])
IS_TOKEN = jnp.array([[True] * 4, [True, True, False, False]])


@cache
def params():
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(MODEL.init, jax.random.key(0), PROMPTS),
    )


@cache
def by_full_passes(num_tokens):
    """Greedy, one full pass over the sequence so far for each token."""
    apply = jax.jit(MODEL.apply)
    rows = []
    for prompt, of_prompt in zip(PROMPTS, IS_TOKEN, strict=True):
        tokens = prompt[of_prompt].tolist()
        length = len(tokens)
        for _ in range(num_tokens):
            padded = jnp.asarray([tokens + [0] * (10 - len(tokens))])
            is_token = (jnp.arange(10)[None] < len(tokens)).astype(jnp.int32)
            logits = apply(params(), padded, is_token)
            tokens.append(int(jnp.argmax(logits[0, len(tokens) - 1])))
        rows.append(tokens[length:])
    return rows


def greedy(prompts=PROMPTS, is_token=IS_TOKEN, **options):
    options = {"num_tokens": 6, "is_token": is_token} | options
    return generate(MODEL, params(), None, prompts, **options)


def test_greedy_equals_full_passes_wherever_the_padding_is():
    expected = by_full_passes(6)
    assert len({token for row in expected for token in row}) > 3
    assert greedy().tokens.tolist() == expected
    left = jnp.array([[3, 7, 1, 9], [0, 0, 4, 8]])
    is_token = jnp.array([[True] * 4, [False, False, True, True]])
    with compilations() as compiled:
        shifted = greedy(left, is_token)
    assert compiled == []
    assert shifted.tokens.tolist() == expected
    assert shifted.lengths.tolist() == [6, 6]


def test_the_stop_token_ends_a_sequence():
    expected = by_full_passes(6)
    stop = expected[0][2]
    generated = greedy(stop_token=stop)
    for row, tokens, length in zip(expected, *generated, strict=True):
        kept = row[: row.index(stop)] if stop in row else row
        assert int(length) == len(kept)
        assert tokens.tolist() == kept + [stop] * (6 - len(kept))


def test_sampling_is_the_keys():
    def sampled(seed):
        return generate(
            MODEL,
            params(),
            jax.random.key(seed),
            jnp.tile(PROMPTS[:1], (8, 1)),
            num_tokens=5,
            temperature=2.0,
        ).tokens.tolist()

    first = sampled(0)
    assert sampled(0) == first
    assert sampled(1) != first
    assert len(set(map(tuple, first))) > 4  # rows have draws of their own


LOGITS = np.log([0.05, 0.5, 0.15, 0.3])


@pytest.mark.parametrize(
    ("sampling", "odds"),
    [
        (_Sampling(1.0, None, None), [0.05, 0.5, 0.15, 0.3]),
        (_Sampling(0.5, None, None), [0.0068, 0.6849, 0.0616, 0.2466]),
        (_Sampling(1.0, 2, None), [0, 5 / 8, 0, 3 / 8]),
        # 0.5 alone is too little, so the next one is in
        (_Sampling(1.0, None, 0.6), [0, 5 / 8, 0, 3 / 8]),
        (_Sampling(1.0, None, 0.5), [0, 1, 0, 0]),
        # of the best three, the probabilities are 0.53, 0.32 and 0.16
        (_Sampling(1.0, 3, 0.52), [0, 1, 0, 0]),
        (_Sampling(0.0, None, None), [0, 1, 0, 0]),
    ],
)
def test_draws_have_the_odds_of_the_options(sampling, odds):
    logits = jnp.broadcast_to(jnp.asarray(LOGITS, jnp.float32), (4000, 4))
    draws = np.asarray(_draw(jax.random.key(0), 3, logits, sampling))
    shares = np.bincount(draws, minlength=4) / 4000
    np.testing.assert_allclose(shares, odds, atol=0.03)
    assert (shares[np.equal(odds, 0)] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tokens": 0}, "num_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must lie in"),
        ({"temperature": 1.0}, "rng must be a typed key, got None"),
        ({"top_k": 14}, "top_k must be at most 13, got 14"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"stop_token": 13}, "stop_token must be at most 12, got 13"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        greedy(**options)
