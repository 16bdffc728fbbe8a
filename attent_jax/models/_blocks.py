"""Blocks shared by the attention learners. Shapes: B batch, S sequence, D width."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then a GELU MLP, each residual."""

    num_heads: int
    mlp_ratio: int = 4
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "batch seq width"],
        mask: Bool[Array, "batch 1 #seq seq"] | None,
        deterministic: bool,
    ) -> Float[Array, "batch seq width"]:
        width = x_BSD.shape[-1]
        attended = nn.MultiHeadDotProductAttention(self.num_heads)(
            nn.LayerNorm()(x_BSD), mask=mask
        )
        x_BSD = x_BSD + nn.Dropout(self.dropout_rate, deterministic=deterministic)(
            attended
        )
        hidden = nn.Dense(self.mlp_ratio * width)(nn.LayerNorm()(x_BSD))
        hidden = nn.Dense(width)(nn.gelu(hidden))
        return x_BSD + nn.Dropout(self.dropout_rate, deterministic=deterministic)(
            hidden
        )


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
        deterministic_argument = 3  # static, as it decides what is traced
        kind = (
            nn.remat(Block, static_argnums=(deterministic_argument,))
            if self.remat
            else Block
        )
        for number in range(self.num_layers):
            block = kind(
                self.num_heads,
                self.mlp_ratio,
                self.dropout_rate,
                name=f"Block_{number}",
            )
            x_BSD = block(x_BSD, mask, deterministic)
        return nn.LayerNorm()(x_BSD)


def key_mask(valid: Bool[Array, "batch seq"]) -> Bool[Array, "batch 1 1 seq"]:
    """Every position attends to the valid ones only."""
    return jnp.asarray(valid, bool)[:, None, None, :]
