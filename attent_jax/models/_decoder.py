"""A decoder that is Llama 2, Mistral or Gemma by configuration.

Shapes: B batch, S sequence, T slots of keys, D width, V vocabulary, H head width, N
query heads, K key heads, G query heads of a key head.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attent_jax.models._decoder_cache import DecoderCache
from attent_jax.models._decoder_config import DecoderConfig
from attent_jax.models._positions import (
    NOWHERE,
    Rotation,
    positions_in_segments,
    rotate,
    rotation,
    visible,
)

_ACTIVATIONS = {"silu": nn.silu, "gelu": nn.gelu}


class Decoder(nn.Module):
    """A causal decoder: tokens -> logits of the next one.

    Llama 2, Mistral and Gemma are configurations of it. Norms, softmax and logits are
    computed in float32 or more, whatever `dtype` is.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> config = attent_jax.models.DecoderConfig.tiny(vocabulary_size=50)
      >>> model = attent_jax.models.Decoder(config)
      >>> tokens = jnp.array([[7, 3, 9, 5, 8, 0]])
      >>> segment_ids = jnp.array([[1, 1, 1, 2, 2, 0]])  # two sequences, then padding
      >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> jax.jit(model.apply)(params, tokens, segment_ids).shape
      (1, 6, 50)
    """

    config: DecoderConfig
    dtype: Any = None
    """Of the computation; None: the parameters'."""
    param_dtype: Any = jnp.float32
    remat: bool = False
    """Whether the backward pass recomputes each layer: less memory, more time."""
    scan_layers: bool = False
    """Whether parameters of all layers are stacked, and the layers one `scan`: the
    compile time then does not grow with their number."""

    def setup(self):
        config = self.config
        self.embed = _table(self, config.vocabulary_size)
        kind: Any = DecoderLayer
        if self.remat:
            kind = nn.remat(kind, prevent_cse=not self.scan_layers)
        self.layers: Any
        if self.scan_layers:
            axes: Any = (nn.broadcast, nn.broadcast, 0, nn.broadcast)
            self.layers = nn.scan(
                kind,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=axes,
                length=config.num_layers,
            )(config, self.dtype, self.param_dtype)
        else:
            self.layers = [
                kind(config, self.dtype, self.param_dtype)
                for _ in range(config.num_layers)
            ]
        self.norm = RMSNorm(config, self.param_dtype)
        self.head = (
            self.embed
            if config.tie_embeddings
            else _table(self, config.vocabulary_size)
        )

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        segment_ids: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq vocabulary"]:
        """Logits of the token after each.

        Args:
          tokens: `[batch, seq]`
          segment_ids: `[batch, seq]` 0 is padding, on either side. Several sequences
            in a row have different ids, each id in one piece; they do not attend to
            each other, and positions restart. None: every row is one sequence.
        """
        if segment_ids is None:
            positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
            allowed = visible(positions, positions, self.config.sliding_window)
        else:
            positions = positions_in_segments(segment_ids)
            allowed = visible(positions, positions, self.config.sliding_window)
            allowed &= segment_ids[:, :, None] == segment_ids[:, None, :]
        states, _ = self._states(tokens, positions, allowed)
        return self._logits(states)

    def extend(
        self,
        tokens: Int[Array, "batch seq"],
        cache: DecoderCache,
        is_token: Bool[Array, "batch seq"] | None = None,
    ) -> tuple[Float[Array, "batch vocabulary"], DecoderCache]:
        """Append tokens to sequences whose keys and values are in a cache.

        Args:
          tokens: `[batch, seq]`
          cache: of the tokens before; there must be room for `seq` more.
          is_token: `[batch, seq]` false for padding. Pad on the left: the logits are
            those of the last column. None: no padding.

        Returns:
          `(logits, cache)`: logits of the next token.

        Raises:
          ValueError: if the cache has fewer slots than there are tokens.
        """
        num_slots = cache.positions.shape[1]
        if tokens.shape[1] > num_slots:
            raise ValueError(
                f"the cache has {num_slots} slots, which is too few for "
                f"{tokens.shape[1]} tokens: make it longer."
            )
        if is_token is None:
            is_token = jnp.ones(tokens.shape, bool)
        counts = cache.num_tokens[:, None] + jnp.cumsum(
            is_token, axis=1, dtype=jnp.int32
        )
        new = jnp.where(is_token, counts - 1, NOWHERE)
        positions = jax.lax.dynamic_update_slice_in_dim(
            cache.positions, new, cache.num_filled, 1
        )
        allowed = visible(new, positions, self.config.sliding_window)
        states, (keys, values) = self._states(
            tokens, new, allowed, (cache.keys, cache.values), cache.num_filled
        )
        num_filled = cache.num_filled + tokens.shape[1]
        cache = DecoderCache(keys, values, positions, counts[:, -1], num_filled)
        return self._logits(states[:, -1:])[:, 0], cache

    def _states(self, tokens, positions, allowed, cached: Any = None, first: Any = 0):
        """Hidden states after the final norm, and the layers' keys and values."""
        config = self.config
        x = self.embed(tokens)
        if config.scale_embeddings:
            x = x * jnp.asarray(config.width**0.5, x.dtype)
        turn = rotation(
            positions,
            config.head_width,
            config.rope_theta,
            config.rope_scale,
            _wide(x.dtype),
        )
        if self.scan_layers:
            x, cached = self.layers(x, turn, allowed, cached, first)
        else:
            each = []
            for number, layer in enumerate(self.layers):
                own = jax.tree.map(lambda leaf: leaf[number], cached)  # noqa: B023
                x, own = layer(x, turn, allowed, own, first)
                each.append(own)
            cached = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        return self.norm(x), cached

    def _logits(self, states):
        table = self.head.embedding.astype(states.dtype)
        return jnp.einsum(
            "BSD,VD->BSV", states, table, preferred_element_type=_wide(states.dtype)
        )


class DecoderLayer(nn.Module):
    """Attention, then a gated MLP, each after a norm and residual."""

    config: DecoderConfig
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "batch seq width"],
        turn: Rotation,
        allowed_BST: Bool[Array, "#batch seq slots"],
        cached: tuple[Array, Array] | None,
        first: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "batch seq width"], tuple[Array, Array] | None]:
        config = self.config

        def norm(name):
            return RMSNorm(config, self.param_dtype, name=name)

        attended, cached = Attention(
            config, self.dtype, self.param_dtype, name="attention"
        )(norm("attention_norm")(x_BSD), turn, allowed_BST, cached, first)
        x_BSD = x_BSD + attended
        mlp = GatedMLP(config, self.dtype, self.param_dtype, name="mlp")
        return x_BSD + mlp(norm("mlp_norm")(x_BSD)), cached


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    config: DecoderConfig
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "batch seq width"],
        turn: Rotation,
        allowed_BST: Bool[Array, "#batch seq slots"],
        cached: tuple[Array, Array] | None,
        first: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "batch seq width"], tuple[Array, Array] | None]:
        """Outputs; and keys and values with the new ones written at slot `first`."""
        config, (num_rows, length, _) = self.config, x_BSD.shape

        def heads(name, num_heads):
            projected = _dense(self, name, num_heads * config.head_width)(x_BSD)
            return projected.reshape(num_rows, length, num_heads, config.head_width)

        q = rotate(heads("q", config.num_heads), turn)
        k = rotate(heads("k", config.num_kv_heads), turn)
        v = heads("v", config.num_kv_heads)
        if cached is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            k = write(cached[0], k.astype(cached[0].dtype), first, 1)
            v = write(cached[1], v.astype(cached[1].dtype), first, 1)
            cached = (k, v)
        mixed = attend(q, k, v, allowed_BST).reshape(num_rows, length, -1)
        return _dense(self, "o", config.width)(mixed), cached


def attend(
    q_BSNH: Float[Array, "batch seq heads width"],
    k_BTKH: Float[Array, "batch slots kv_heads width"],
    v_BTKH: Float[Array, "batch slots kv_heads width"],
    allowed_BST: Bool[Array, "#batch seq slots"],
) -> Float[Array, "batch seq heads width"]:
    """softmax(q kᵀ / √width) v over the allowed keys."""
    num_rows, length, num_heads, width = q_BSNH.shape
    num_kv_heads, wide = k_BTKH.shape[2], _wide(q_BSNH.dtype)
    q_BSKGH = q_BSNH.reshape(
        num_rows, length, num_kv_heads, num_heads // num_kv_heads, width
    )
    logits = jnp.einsum(
        "BSKGH,BTKH->BKGST", q_BSKGH, k_BTKH, preferred_element_type=wide
    )
    # finite: a padded query, which may attend to nothing, must not become NaN
    logits = jnp.where(
        allowed_BST[:, None, None], logits * width**-0.5, jnp.finfo(wide).min
    )
    weights = jax.nn.softmax(logits).astype(v_BTKH.dtype)
    mixed = jnp.einsum("BKGST,BTKH->BSKGH", weights, v_BTKH)
    return mixed.reshape(q_BSNH.shape)


class GatedMLP(nn.Module):
    """down(activation(gate(x)) · up(x)): SwiGLU or GeGLU."""

    config: DecoderConfig
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "batch seq width"]
    ) -> Float[Array, "batch seq width"]:
        config = self.config
        gate = _dense(self, "gate", config.mlp_width)(x_BSD)
        hidden = _ACTIVATIONS[config.activation](gate)
        hidden = hidden * _dense(self, "up", config.mlp_width)(x_BSD)
        return _dense(self, "down", config.width)(hidden)


class RMSNorm(nn.Module):
    """x / rms(x) · (offset + scale)."""

    config: DecoderConfig
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "batch seq width"]
    ) -> Float[Array, "batch seq width"]:
        offset = self.config.norm_offset
        scale = self.param(
            "scale",
            nn.initializers.constant(1 - offset),
            x_BSD.shape[-1:],
            self.param_dtype,
        )
        x = x_BSD.astype(_wide(x_BSD.dtype))
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(mean_square + self.config.norm_epsilon)
        return (x * (offset + scale.astype(x.dtype))[None, None]).astype(x_BSD.dtype)


def _dense(module, name: str, num_features: int) -> nn.Dense:
    return nn.Dense(
        num_features,
        use_bias=False,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def _table(module, num_rows: int) -> nn.Embed:
    return nn.Embed(
        num_rows,
        module.config.width,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        embedding_init=nn.initializers.normal(0.02),
    )


def _wide(dtype: Any) -> Any:
    """float32, or wider where the computation is."""
    return dtype if jnp.finfo(dtype).bits > 32 else jnp.float32
