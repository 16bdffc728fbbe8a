"""One Vision Transformer for several kinds of pictures."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attent_jax.models._blocks import Dtype, make_blocks
from attent_jax.models._masking import TokenMask
from attent_jax.models._modalities import Modality, check_inputs, patchify

_WAVELENGTH = 10_000.0


class Encoded(NamedTuple):
    """What an encoder makes of its inputs."""

    tokens: Float[Array, "batch seq width"]
    """`[batch, global + visible, width]` after the final norm, the global tokens first.
    """
    blocks: tuple[Float[Array, "batch seq width"], ...]
    """The same of every block, without the norm."""


def sincos_positions(
    grid: tuple[int, int], width: int, reference: tuple[float, float] | None = None
) -> Float[np.ndarray, "patches width"]:
    """Two-dimensional sine-cosine positions of a grid's patches, row by row.

    Args:
      grid: patches along height and width.
      width: of a position, a multiple of 4: sines and cosines of the column, then of
        the row.
      reference: the grid that positions are counted in; a larger grid then has
        fractions of positions. None: the grid itself.

    Raises:
      ValueError: if width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(
            f"width must be a multiple of 4 for sine-cosine positions, got {width}: "
            f"choose another width."
        )
    rows, columns = (
        (np.arange(n) + 0.5) * (of / n) - 0.5
        for n, of in zip(grid, reference or grid, strict=True)
    )
    frequencies = _WAVELENGTH ** (-np.arange(width // 4) / (width // 4))
    phases = [
        positions[:, None] * frequencies
        for positions in (np.tile(columns, grid[0]), np.repeat(rows, grid[1]))
    ]
    waves = [wave(phase) for phase in phases for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)


class MultiModalEncoder(nn.Module):
    """A shared Vision Transformer on the visible tokens of several modalities.

    Each modality is cut into patches and projected by weights of its own; the bias is
    the modality's embedding. Labels are embedded first. A global token is added, which
    belongs to no patch.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> modalities = (attent_jax.models.Modality.rgb(patch_size=4),)
      >>> model = attent_jax.models.MultiModalEncoder(
      ...     modalities, width=16, num_layers=1, num_heads=2)
      >>> inputs = attent_jax.models.blank_inputs(modalities, 8)
      >>> params = jax.jit(model.init)(jax.random.key(0), inputs)
      >>> model.apply(params, inputs).tokens.shape  # 2 × 2 patches, a global token
      (1, 5, 16)

    Reference: Bachmann et al., MultiMAE (ECCV 2022), section 3.1.
    """

    modalities: tuple[Modality, ...]
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    num_global_tokens: int = 1
    class_width: int = 64
    """Of a label's embedding."""
    image_size: int | None = None
    """The side, in pixels, of the images that positions are counted in. Larger images
    then have fractions of positions. None: each size is counted in its own patches."""
    drop_path_rate: float = 0.0
    """Of the last block; the rate rises linearly from 0."""
    dtype: Dtype = None
    """Of activations, such as `jnp.bfloat16`; parameters are float32."""
    remat: bool = False
    """Whether the backward pass recomputes each block: less memory, more time."""

    def present(self, inputs: Mapping[str, Array]) -> tuple[Modality, ...]:
        """The modalities of the inputs, in the encoder's order.

        Raises:
          ValueError: if there is none, or the encoder does not know one.
        """
        known = [modality.name for modality in self.modalities]
        if not inputs or not set(inputs) <= set(known):
            raise ValueError(
                f"inputs have the modalities {sorted(inputs)}, but the encoder knows "
                f"{known}: pass at least one of these and no other."
            )
        found = tuple(m for m in self.modalities if m.name in inputs)
        check_inputs(found, inputs)
        return found

    def num_tokens(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        """Each present modality's number of tokens, in the encoder's order."""
        found = self.present(inputs)
        return {m.name: int(np.prod(m.grid(inputs[m.name]))) for m in found}

    def positions(
        self, modality: Modality, maps: Array, width: int
    ) -> Float[np.ndarray, "patches width"]:
        """Positions of a modality's patches."""
        grid = modality.grid(maps)
        if self.image_size is None:
            return sincos_positions(grid, width)
        per_side = self.image_size / modality.patch_size
        return sincos_positions(grid, width, (per_side, per_side))

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, Array],
        mask: TokenMask | None = None,
        *,
        train: bool = False,
    ) -> Encoded:
        """Encode the visible tokens.

        Args:
          inputs: maps by modality, of `prepare_inputs`; any of the modalities. What is
            missing (not finite) counts as 0.
          mask: which tokens are visible. None: all.
          train: whether to skip branches at random; needs the key "dropout".
        """
        tokens_BTD = jnp.concatenate(
            [self._embed(m, inputs[m.name]) for m in self.present(inputs)], axis=1
        )
        if mask is not None:
            _check_mask(mask, tokens_BTD.shape[:2])
            tokens_BTD = take_tokens(tokens_BTD, mask.visible)
        globals_GD = self.param(
            "global_tokens",
            nn.initializers.normal(0.02),
            (self.num_global_tokens, self.width),
        ).astype(tokens_BTD.dtype)
        globals_BGD = jnp.broadcast_to(
            globals_GD[None], (len(tokens_BTD), *globals_GD.shape)
        )
        x_BSD = jnp.concatenate([globals_BGD, tokens_BTD], axis=1)
        blocks = []
        for block in make_blocks(
            self.num_layers,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            drop_path_rate=self.drop_path_rate,
            dtype=self.dtype,
            remat=self.remat,
        ):
            x_BSD = block(x_BSD, None, not train)
            blocks.append(x_BSD)
        return Encoded(nn.LayerNorm(dtype=self.dtype)(x_BSD), tuple(blocks))

    @nn.nowrap
    def _embed(self, modality: Modality, maps: Array) -> Array:
        """`[batch, patches, width]` all tokens of a modality."""
        patches = patchify(modality, maps)
        if modality.has_labels:
            # The last class is that of labels that are none.
            num_classes = modality.num_channels
            known = (patches >= 0) & (patches < num_classes)
            embed = nn.Embed(
                num_classes + 1,
                self.class_width,
                dtype=self.dtype,
                name=f"{modality.name}_classes",
            )
            embedded = embed(jnp.where(known, patches, num_classes))
            patches = embedded.reshape(*patches.shape[:2], -1)
        else:
            patches = jnp.where(jnp.isfinite(patches), patches, 0)
        project = nn.Dense(
            self.width, dtype=self.dtype, name=f"{modality.name}_patches"
        )
        tokens_BTD = project(patches)
        positions_TD = self.positions(modality, maps, self.width)
        return tokens_BTD + jnp.asarray(positions_TD, tokens_BTD.dtype)[None]


def take_tokens(
    tokens_BTD: Float[Array, "batch seq width"], indices: Int[Array, "batch taken"]
) -> Float[Array, "batch taken width"]:
    """Each example's tokens at its own indices."""
    return jnp.take_along_axis(
        tokens_BTD, indices[:, :, None], axis=1, mode="promise_in_bounds"
    )


def _check_mask(mask: TokenMask, shape: tuple[int, ...]) -> None:
    if mask.places.shape != shape:
        raise ValueError(
            f"mask is of {mask.places.shape} (batch, tokens), but the inputs have "
            f"{shape}: make it for the numbers of tokens that "
            f"encoder.num_tokens(inputs) gives."
        )
