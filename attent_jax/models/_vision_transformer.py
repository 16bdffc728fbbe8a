"""A Vision Transformer."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax.models._blocks import Encoder


class VisionTransformer(nn.Module):
    """Patches, encoder, mean over tokens, linear head: pictures -> class logits.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> model = attent_jax.models.VisionTransformer(
      ...     num_classes=10, patch_size=2, width=16, num_layers=1, num_heads=2)
      >>> images = jnp.ones((3, 8, 8, 1))
      >>> params = jax.jit(model.init)(jax.random.key(0), images)
      >>> model.apply(params, images).shape
      (3, 10)

    Reference: Dosovitskiy et al., An Image is Worth 16x16 Words (ICLR 2021), with the
    mean in place of the class token (Beyer et al., arXiv 2205.01580).
    """

    num_classes: int
    patch_size: int = 16
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    dropout_rate: float = 0.0
    remat: bool = False
    """Whether the backward pass recomputes each block: less memory, more time."""

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        if images.shape[1] % self.patch_size or images.shape[2] % self.patch_size:
            raise ValueError(
                f"images of {images.shape[1]} × {images.shape[2]} pixels do not divide "
                f"into patches of {self.patch_size}: resize them or change patch_size."
            )
        patch = (self.patch_size, self.patch_size)
        tokens = nn.Conv(self.width, patch, strides=patch, name="patches")(images)
        tokens = tokens.reshape(tokens.shape[0], -1, self.width)
        encoder = Encoder(
            self.num_layers,
            self.num_heads,
            self.mlp_ratio,
            self.dropout_rate,
            self.remat,
        )
        encoded = encoder(tokens, deterministic=not train)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(encoded, axis=1))
