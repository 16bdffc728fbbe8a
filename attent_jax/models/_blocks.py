"""Blocks shared by the attention learners. Shapes: B batch, S sequence, D width."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Dtype = Any
"""What `jnp.dtype` takes, or None."""


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then a GELU MLP, each residual."""

    num_heads: int
    mlp_ratio: int = 4
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    """How often an example skips a branch: stochastic depth."""
    dtype: Dtype = None
    """Of activations; None: of inputs and parameters."""

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "batch seq width"],
        mask: Bool[Array, "batch 1 #seq seq"] | None,
        deterministic: bool,
    ) -> Float[Array, "batch seq width"]:
        def drop(branch_BSD, name):
            branch_BSD = nn.Dropout(self.dropout_rate, deterministic=deterministic)(
                branch_BSD
            )
            return nn.Dropout(
                self.drop_path_rate,
                broadcast_dims=(1, 2),
                deterministic=deterministic,
                name=name,
            )(branch_BSD)

        attend = make_attention(self.num_heads, self.dtype)
        attended = attend(nn.LayerNorm(dtype=self.dtype)(x_BSD), mask=mask)
        x_BSD = x_BSD + drop(attended, "drop_attention")
        normed = nn.LayerNorm(dtype=self.dtype)(x_BSD)
        return x_BSD + drop(mlp(normed, self.mlp_ratio, self.dtype), "drop_mlp")


def make_attention(
    num_heads: int, dtype: Dtype = None
) -> nn.MultiHeadDotProductAttention:
    """An attention layer of the module that calls this.

    With a type of its own, its matrix products are of that type, and its softmax is of
    float32. (flax's `force_fp32_for_softmax` computes the second product in float32.)
    """
    attention_fn = nn.dot_product_attention if dtype is None else _mixed_attention
    return nn.MultiHeadDotProductAttention(
        num_heads, dtype=dtype, attention_fn=attention_fn
    )


def _mixed_attention(query, key, value, mask=None):
    """`[batch, seq, heads, size]` each; softmax in float32."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query * query.shape[-1] ** -0.5, key)
    logits = logits.astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def mlp(
    x_BSD: Float[Array, "batch seq width"], ratio: int, dtype: Dtype = None
) -> Float[Array, "batch seq width"]:
    """Two dense layers of the module that calls this, with a GELU between."""
    width = x_BSD.shape[-1]
    hidden = nn.Dense(ratio * width, dtype=dtype)(x_BSD)
    return nn.Dense(width, dtype=dtype)(nn.gelu(hidden))


def make_blocks(
    num_layers: int, *, drop_path_rate: float = 0.0, remat: bool = False, **fields: Any
) -> list[Callable[..., Array]]:
    """Blocks of the module that calls this, `Block_0` and so on.

    Args:
      num_layers: how many.
      drop_path_rate: of the last one; the rate rises linearly from 0.
      remat: whether the backward pass recomputes each block instead of keeping it.
      **fields: the other fields of `Block`.

    Returns:
      Functions `(x, mask, deterministic) -> x`.
    """
    deterministic_argument = 3  # static, as it decides what is traced
    kind = nn.remat(Block, static_argnums=(deterministic_argument,)) if remat else Block
    return [
        kind(
            drop_path_rate=drop_path_rate * number / max(1, num_layers - 1),
            name=f"Block_{number}",
            **fields,
        )
        for number in range(num_layers)
    ]


class Encoder(nn.Module):
    """Learned positions, blocks, a final norm."""

    num_layers: int
    num_heads: int
    mlp_ratio: int = 4
    dropout_rate: float = 0.0
    remat: bool = False
    """Whether the backward pass recomputes each block instead of keeping it."""

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "batch seq width"],
        mask: Bool[Array, "batch 1 #seq seq"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch seq width"]:
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (1, *x_BSD.shape[1:])
        )
        x_BSD = x_BSD + positions
        for block in make_blocks(
            self.num_layers,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            dropout_rate=self.dropout_rate,
            remat=self.remat,
        ):
            x_BSD = block(x_BSD, mask, deterministic)
        return nn.LayerNorm()(x_BSD)


def key_mask(valid: Bool[Array, "batch seq"]) -> Bool[Array, "batch 1 1 seq"]:
    """Every position attends to the valid ones only."""
    return jnp.asarray(valid, bool)[:, None, None, :]
