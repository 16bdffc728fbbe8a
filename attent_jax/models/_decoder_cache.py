"""Keys and values of the tokens so far."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attent_jax.models._decoder_config import DecoderConfig
from attent_jax.models._positions import NOWHERE


class DecoderCache(NamedTuple):
    """Keys and values of the tokens so far, of a static length."""

    keys: Float[Array, "layers batch slots heads width"]
    values: Float[Array, "layers batch slots heads width"]
    positions: Int[Array, "batch slots"]
    """Of each slot's token in its sequence; −1: padding, or not filled yet."""
    num_tokens: Int[Array, "batch"]
    """Of each sequence, padding not counted: the position of its next token."""
    num_filled: Int[Array, ""]
    """Slots filled, padding included: where the next token is written."""

    @classmethod
    def empty(
        cls, config: DecoderConfig, batch_size: int, num_slots: int, dtype: Any
    ) -> "DecoderCache":
        """A cache for `num_slots` tokens of each sequence, padding included.

        Example:
          >>> import jax.numpy as jnp
          >>> from attent_jax.models import DecoderCache, DecoderConfig
          >>> config = DecoderConfig.tiny()
          >>> DecoderCache.empty(config, 3, 16, jnp.float32).keys.shape
          (2, 3, 16, 2, 8)
        """
        shape = (config.num_layers, batch_size, num_slots)
        entries = jnp.zeros((*shape, config.num_kv_heads, config.head_width), dtype)
        return cls(
            keys=entries,
            values=entries,
            positions=jnp.full((batch_size, num_slots), NOWHERE, jnp.int32),
            num_tokens=jnp.zeros(batch_size, jnp.int32),
            num_filled=jnp.zeros((), jnp.int32),
        )
