"""Continuations of prompts, greedy or sampled."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attent_jax._checks import check_count, check_number, check_rng
from attent_jax.models._decoder import Decoder
from attent_jax.models._decoder_cache import DecoderCache
from attent_jax.typing import Params, Rng


class Generated(NamedTuple):
    """What was generated."""

    tokens: Int[Array, "batch new"]
    """The prompt not included; from the stop token on, stop tokens."""
    lengths: Int[Array, "batch"]
    """Tokens before the stop token."""


class _Sampling(NamedTuple):
    """How the next token is drawn."""

    temperature: float
    top_k: int | None
    top_p: float | None


def generate(
    model: Decoder,
    params: Params,
    rng: Rng,
    prompts: Int[Array, "batch seq"],
    *,
    num_tokens: int,
    is_token: Bool[Array, "batch seq"] | None = None,
    stop_token: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Generated:
    """Continue prompts, all of a batch at once, by one compiled loop.

    It is compiled once for each model, shape of prompts and set of options. The loop
    ends when every sequence has its stop token.

    Args:
      model: the decoder.
      params: its parameters.
      rng: a key; None with temperature 0.
      prompts: `[batch, seq]`, of one token at least.
      num_tokens: the most tokens to generate for each.
      is_token: `[batch, seq]` false for padding, which may be on either side. None: no
        padding.
      stop_token: ends a sequence. None: nothing does.
      temperature: logits are divided by it; 0 takes the likeliest token.
      top_k: draw among the k likeliest tokens. None: among all.
      top_p: draw among the likeliest tokens that together have this probability, after
        temperature and `top_k`. None: among all.

    Raises:
      TypeError, ValueError: if an option is out of its range, or `rng` is missing.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> config = attent_jax.models.DecoderConfig.tiny()
      >>> model = attent_jax.models.Decoder(config, scan_layers=True)
      >>> prompts = jnp.array([[5, 7, 9], [0, 0, 4]])
      >>> params = jax.jit(model.init)(jax.random.key(0), prompts)
      >>> attent_jax.models.generate(
      ...     model, params, None, prompts, is_token=prompts != 0, num_tokens=4
      ... ).tokens.shape
      (2, 4)

    Reference: top-p is nucleus sampling of Holtzman et al. (ICLR 2020).
    """
    vocabulary_size = model.config.vocabulary_size
    num_tokens = check_count("num_tokens", num_tokens)
    temperature = check_number("temperature", temperature, low=0)
    check_rng("rng", rng, optional=temperature == 0)
    if top_k is not None:
        top_k = check_count("top_k", top_k, maximum=vocabulary_size)
    if top_p is not None:
        top_p = check_number("top_p", top_p, low=0, high=1, low_excluded=True)
    if stop_token is not None:
        stop_token = check_count(
            "stop_token", stop_token, minimum=0, maximum=vocabulary_size - 1
        )
    if is_token is None:
        is_token = jnp.ones(prompts.shape, bool)
    return _generate(
        model,
        params,
        rng,
        prompts,
        is_token,
        num_tokens=num_tokens,
        stop_token=stop_token,
        sampling=_Sampling(temperature, top_k, top_p),
    )


@functools.partial(
    jax.jit, static_argnames=("model", "num_tokens", "stop_token", "sampling")
)
def _generate(
    model: Any,
    params: Params,
    rng: Rng,
    prompts: Int[Array, "batch seq"],
    is_token: Bool[Array, "batch seq"],
    *,
    num_tokens: int,
    stop_token: int | None,
    sampling: _Sampling,
) -> Generated:
    num_rows, length = prompts.shape
    on_the_left = jnp.argsort(is_token, axis=1, stable=True)
    prompts, is_token = (
        jnp.take_along_axis(each, on_the_left, axis=1) for each in (prompts, is_token)
    )
    dtype = model.dtype or params["params"]["embed"]["embedding"].dtype
    num_slots = length + num_tokens - 1  # the last token is not fed back
    cache = DecoderCache.empty(model.config, num_rows, num_slots, dtype)

    def next_token(step, logits, is_stopped):
        token = _draw(rng, step, logits, sampling)
        if stop_token is None:
            return token, is_stopped
        token = jnp.where(is_stopped, stop_token, token)
        return token, is_stopped | (token == stop_token)

    def is_running(state):
        step, _, _, is_stopped, _, _ = state
        return (step < num_tokens) & ~jnp.all(is_stopped)

    def run(state):
        step, cache, token, is_stopped, tokens, lengths = state
        logits, cache = model.apply(params, token[:, None], cache, method="extend")
        token, is_stopped = next_token(step, logits, is_stopped)
        tokens = tokens.at[:, step].set(token)
        lengths = lengths + (~is_stopped).astype(jnp.int32)
        return step + 1, cache, token, is_stopped, tokens, lengths

    logits, cache = model.apply(params, prompts, cache, is_token, method="extend")
    token, is_stopped = next_token(0, logits, jnp.zeros(num_rows, bool))
    tokens = jnp.full((num_rows, num_tokens), stop_token or 0, jnp.int32)
    tokens = tokens.at[:, 0].set(token)
    lengths = (~is_stopped).astype(jnp.int32)
    state = (jnp.int32(1), cache, token, is_stopped, tokens, lengths)
    *_, tokens, lengths = jax.lax.while_loop(is_running, run, state)
    return Generated(tokens, lengths)


def _draw(
    rng: Rng, step: Any, logits: Float[Array, "batch vocabulary"], sampling: _Sampling
) -> Int[Array, "batch"]:
    """The next token of each sequence."""
    if rng is None or sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = _at_least(logits, jax.lax.top_k(logits, sampling.top_k)[0][:, -1:])
    if sampling.top_p is not None:
        ranked = jnp.sort(logits, axis=-1, descending=True)
        shares = jax.nn.softmax(ranked)
        is_kept = jnp.cumsum(shares, axis=-1) - shares < sampling.top_p
        lowest = jnp.min(jnp.where(is_kept, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = _at_least(logits, lowest)
    tokens = jax.random.categorical(jax.random.fold_in(rng, step), logits)
    return tokens.astype(jnp.int32)


def _at_least(logits, lowest):
    return jnp.where(logits >= lowest, logits, -jnp.inf)
