"""A pre-trained encoder with a head: image classes, label maps, depth maps."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax.models._blocks import Dtype, mlp
from attent_jax.models._multimodal_encoder import MultiModalEncoder

_DEPTH_CHANNELS = 32  # of the last layers, at full resolution


class MultiModalClassifier(nn.Module):
    """An encoder and a linear head: maps of any modalities -> class logits.

    Example:
      >>> import jax, attent_jax
      >>> encoder = attent_jax.models.MultiMAE.tiny(num_classes=5).encoder
      >>> model = attent_jax.models.MultiModalClassifier(encoder, num_classes=10)
      >>> inputs = attent_jax.models.blank_inputs(encoder.modalities[:1], 8)  # RGB
      >>> params = jax.eval_shape(model.init, jax.random.key(0), inputs)
      >>> jax.eval_shape(model.apply, params, inputs).shape
      (1, 10)
    """

    encoder: MultiModalEncoder
    num_classes: int
    pool: Literal["mean", "global"] = "mean"
    """What the head reads: the mean over all tokens, or the first global token."""

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Class logits in float32; `train` skips branches, by the key "dropout"."""
        if self.pool not in ("mean", "global"):
            raise ValueError(
                f'pool must be "mean" or "global", got {self.pool!r}: pass one of them.'
            )
        if self.pool == "global" and not self.encoder.num_global_tokens:
            raise ValueError(
                'pool="global" needs a global token, but the encoder has none: pass '
                'pool="mean".'
            )
        tokens_BSD = self.encoder(inputs, train=train).tokens.astype(jnp.float32)
        is_mean = self.pool == "mean"
        pooled_BD = jnp.mean(tokens_BSD, axis=1) if is_mean else tokens_BSD[:, 0]
        return nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.truncated_normal(0.02),
            name="head",
        )(pooled_BD)


class SegmentationModel(nn.Module):
    """An encoder and a ConvNeXt head: maps of any modalities -> logits by pixel.

    The tokens of one modality become a map of `upscale` × `upscale` entries for each
    patch. ConvNeXt blocks follow, then a linear layer, resized to the image.

    Example:
      >>> import jax, attent_jax
      >>> encoder = attent_jax.models.MultiMAE.tiny(num_classes=5).encoder
      >>> model = attent_jax.models.SegmentationModel(
      ...     encoder, num_classes=5, head_width=8, num_blocks=1, upscale=2)
      >>> inputs = attent_jax.models.blank_inputs(encoder.modalities[:1], 8)
      >>> params = jax.eval_shape(model.init, jax.random.key(0), inputs)
      >>> jax.eval_shape(model.apply, params, inputs).shape
      (1, 8, 8, 5)

    Reference: Bachmann et al., MultiMAE (ECCV 2022), appendix; Liu et al., A ConvNet
    for the 2020s (CVPR 2022).
    """

    encoder: MultiModalEncoder
    num_classes: int
    modality: str = "rgb"
    """Whose tokens the head reads."""
    head_width: int = 384
    num_blocks: int = 4
    """ConvNeXt blocks. 0: a linear head."""
    upscale: int = 4

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Float[Array, "batch height width classes"]:
        """Logits in float32; `train` skips branches, by the key "dropout"."""
        dtype, side = self.encoder.dtype, self.upscale
        tokens_BSD = self.encoder(inputs, train=train).tokens
        map_BHWC = _map_of(self.encoder, self.modality, inputs, tokens_BSD)
        batch, rows, columns, _ = map_BHWC.shape
        wide = nn.Dense(side * side * self.head_width, dtype=dtype, name="expand")(
            map_BHWC
        )
        wide = wide.reshape(batch, rows, columns, side, side, self.head_width)
        map_BHWC = wide.transpose(0, 1, 3, 2, 4, 5).reshape(
            batch, rows * side, columns * side, self.head_width
        )
        for number in range(self.num_blocks):
            map_BHWC = _ConvNeXtBlock(dtype, name=f"ConvNeXtBlock_{number}")(map_BHWC)
        logits = nn.Dense(self.num_classes, name="head")(map_BHWC.astype(jnp.float32))
        return _resize(logits, _image_size(self.encoder, inputs))


class DepthModel(nn.Module):
    """An encoder and a DPT-like head: maps of any modalities -> depth by pixel.

    The outputs of evenly spaced blocks become maps of different resolutions, the
    earliest the finest. They are fused from coarse to fine by residual convolutions.
    Simpler than DPT: maps are resized bilinearly, without learned up- and downsampling.

    Example:
      >>> import jax, attent_jax
      >>> encoder = attent_jax.models.MultiMAE.tiny(num_classes=5).encoder
      >>> model = attent_jax.models.DepthModel(encoder, head_width=8, num_taps=2)
      >>> inputs = attent_jax.models.blank_inputs(encoder.modalities[:1], 8)
      >>> params = jax.eval_shape(model.init, jax.random.key(0), inputs)
      >>> jax.eval_shape(model.apply, params, inputs).shape
      (1, 8, 8)

    Reference: Ranftl et al., Vision Transformers for Dense Prediction (ICCV 2021).
    """

    encoder: MultiModalEncoder
    modality: str = "rgb"
    """Whose tokens the head reads."""
    head_width: int = 256
    num_taps: int = 4
    """Blocks that the head reads, the last one included."""

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Float[Array, "batch height width"]:
        """Depth above 0 in float32; `train` skips branches, by the key "dropout"."""
        dtype, num_layers = self.encoder.dtype, self.encoder.num_layers
        if not 1 <= self.num_taps <= num_layers:
            raise ValueError(
                f"num_taps must be in [1, {num_layers}], the encoder's number of "
                f"blocks, got {self.num_taps}: choose a number in that range."
            )
        blocks = self.encoder(inputs, train=train).blocks

        def conv(x, width, size, name):
            return nn.Conv(width, (size, size), dtype=dtype, name=name)(x)

        def refine(x, name):
            inner = conv(nn.relu(x), self.head_width, 3, f"{name}_in")
            return x + conv(nn.relu(inner), self.head_width, 3, f"{name}_out")

        fused = None
        for tap in reversed(range(self.num_taps)):
            number = (tap + 1) * num_layers // self.num_taps - 1
            map_BHWC = _map_of(self.encoder, self.modality, inputs, blocks[number])
            # 4, 2, 1 and ½ entries a patch for four taps
            scale = 2.0 ** (self.num_taps - 2 - tap)
            size = tuple(max(1, int(n * scale)) for n in map_BHWC.shape[1:3])
            map_BHWC = conv(map_BHWC, self.head_width, 1, f"project_{tap}")
            map_BHWC = conv(_resize(map_BHWC, size), self.head_width, 3, f"tap_{tap}")
            if fused is not None:
                map_BHWC = _resize(fused, size) + refine(map_BHWC, f"skip_{tap}")
            fused = refine(map_BHWC, f"fuse_{tap}")
        x = conv(fused, self.head_width // 2, 3, "narrow")
        x = _resize(x, _image_size(self.encoder, inputs))
        x = nn.relu(conv(x, _DEPTH_CHANNELS, 3, "sharpen"))
        depth = nn.Dense(1, name="head")(x.astype(jnp.float32))
        return nn.softplus(depth[..., 0])


class _ConvNeXtBlock(nn.Module):
    """A depthwise convolution and an MLP of each entry, residual."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x_BHWC):
        width = x_BHWC.shape[-1]
        near = nn.Conv(width, (7, 7), feature_group_count=width, dtype=self.dtype)
        normed = nn.LayerNorm(dtype=self.dtype)(near(x_BHWC))
        entries = normed.reshape(len(normed), -1, width)
        return x_BHWC + mlp(entries, 4, self.dtype).reshape(x_BHWC.shape)


def _map_of(
    encoder: MultiModalEncoder, name: str, inputs: Mapping[str, Array], tokens: Array
) -> Array:
    """`[batch, rows, columns, width]` the tokens of one modality, all being visible."""
    num_tokens = encoder.num_tokens(inputs)
    if name not in num_tokens:
        raise ValueError(
            f"modality={name!r}, whose tokens the head reads, is not among the inputs "
            f"{list(num_tokens)}: pass it, or choose another modality."
        )
    start = encoder.num_global_tokens
    for other, count in num_tokens.items():
        if other == name:
            break
        start += count
    (modality,) = (m for m in encoder.modalities if m.name == name)
    own = tokens[:, start : start + num_tokens[name]]
    return own.reshape(len(own), *modality.grid(inputs[name]), own.shape[-1])


def _image_size(
    encoder: MultiModalEncoder, inputs: Mapping[str, Array]
) -> tuple[int, int]:
    first = encoder.present(inputs)[0]
    height, width = inputs[first.name].shape[1:3]
    return height * first.stride, width * first.stride


def _resize(x_BHWC: Array, size: tuple[int, ...]) -> Array:
    shape = (len(x_BHWC), *size, x_BHWC.shape[-1])
    return jax.image.resize(x_BHWC, shape, "bilinear")
