"""A classifier of token sequences."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attent_jax.models._blocks import Encoder, key_mask

PADDING = 0
"""The token id of padding."""


class TextClassifier(nn.Module):
    """Embedding, encoder, mean over the tokens that are not padding, linear head.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> model = attent_jax.models.TextClassifier(
      ...     vocabulary_size=100, num_classes=5, width=16, num_layers=1, num_heads=2)
      >>> tokens = jnp.array([[7, 3, 0, 0]])  # 0 is padding
      >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> model.apply(params, tokens).shape
      (1, 5)
    """

    vocabulary_size: int
    num_classes: int
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_ratio: int = 4
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch seq"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        valid = tokens != PADDING
        embedded = nn.Embed(self.vocabulary_size, self.width, name="embed")(tokens)
        encoder = Encoder(
            self.num_layers, self.num_heads, self.mlp_ratio, self.dropout_rate
        )
        encoded = encoder(embedded, key_mask(valid), deterministic=not train)
        weights = valid[..., None].astype(encoded.dtype)
        num_valid = jnp.maximum(jnp.sum(weights, axis=1), 1)
        pooled = jnp.sum(encoded * weights, axis=1) / num_valid
        return nn.Dense(self.num_classes, name="head")(pooled)
