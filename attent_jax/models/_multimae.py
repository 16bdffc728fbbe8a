"""A masked autoencoder of several kinds of pictures."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attent_jax.models._blocks import Dtype, make_attention, make_blocks, mlp
from attent_jax.models._masking import TokenMask, all_visible
from attent_jax.models._modalities import Modality
from attent_jax.models._multimodal_encoder import MultiModalEncoder, take_tokens


class MultiMAE(nn.Module):
    """Reconstructs all patches of all modalities from the few that it sees.

    The encoder runs on the visible tokens alone. Every modality has a decoder: its
    queries are its own tokens, a learned one in place of each that is masked, and
    attend to the visible tokens of all modalities.

    Example:
      >>> import jax, attent_jax
      >>> model = attent_jax.models.MultiMAE.tiny(num_classes=5)
      >>> inputs = attent_jax.models.blank_inputs(model.encoder.modalities, 8)
      >>> mask = attent_jax.models.dirichlet_masks(
      ...     jax.random.split(jax.random.key(1), 1), [4, 4, 4], num_visible=3)
      >>> params = jax.eval_shape(model.init, jax.random.key(0), inputs)
      >>> outputs = jax.eval_shape(model.apply, params, inputs, mask)
      >>> {name: values.shape for name, values in outputs.items()}
      {'depth': (1, 4, 16), 'rgb': (1, 4, 48), 'semantics': (1, 4, 20)}

    Reference: Bachmann et al., MultiMAE: Multi-modal Multi-task Masked Autoencoders
    (ECCV 2022).
    """

    encoder: MultiModalEncoder
    decoder_width: int = 256
    decoder_layers: int = 2
    decoder_heads: int = 8
    balance_tasks: bool = False
    """Whether the losses are weighed by learned uncertainties; see `multimae_loss`."""

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, Array],
        mask: TokenMask | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Float[Array, "batch patches outputs"]]:
        """Reconstruct every patch.

        Args:
          inputs: maps by modality, of `prepare_inputs`.
          mask: which tokens are visible. None: all, as for the initialization.
          train: whether to skip branches at random; needs the key "dropout".

        Returns:
          By modality, `[batch, patches, outputs]` in float32: the values of each patch,
          row by row, channels or classes last.
        """
        num_tokens = self.encoder.num_tokens(inputs)
        present = self.encoder.present(inputs)
        batch_size = len(inputs[present[0].name])
        if self.balance_tasks:
            self.param(
                "log_variances", nn.initializers.zeros, (len(self.encoder.modalities),)
            )
        encoded = self.encoder(inputs, mask, train=train)
        if mask is None:
            mask = all_visible(batch_size, sum(num_tokens.values()))
        positions = {
            m.name: self.encoder.positions(m, inputs[m.name], self.decoder_width)
            for m in present
        }
        outputs = {}
        for modality in present:
            decode = _Decoder(
                modality,
                tuple(num_tokens),
                self.encoder.num_global_tokens,
                self.decoder_width,
                self.decoder_layers,
                self.decoder_heads,
                self.encoder.mlp_ratio,
                self.encoder.dtype,
                self.encoder.remat,
                name=f"{modality.name}_decoder",
            )
            values = decode(encoded.tokens, mask, positions)
            outputs[modality.name] = values.astype(jnp.float32)
        return outputs

    @classmethod
    def tiny(cls, num_classes: int, **fields: Any) -> "MultiMAE":
        """For tests: patches of 4 pixels, two blocks of width 16.

        Args:
          num_classes: of the semantics.
          **fields: of `MultiModalEncoder` or of this class, to change.
        """
        return _preset(
            _rgb_depth_semantics(num_classes, patch_size=4, stride=2),
            {"width": 16, "num_layers": 2, "num_heads": 2, "class_width": 4},
            {"decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2},
            fields,
        )

    @classmethod
    def small(
        cls, num_classes: int, *, patch_size: int = 8, **fields: Any
    ) -> "MultiMAE":
        """For images of 32 to 48 pixels, on a CPU: four blocks of width 96.

        Args:
          num_classes: of the semantics, at stride patch_size / 4.
          patch_size: 8 pixels make 48 tokens of an image of 32 pixels.
          **fields: of `MultiModalEncoder` or of this class, to change.
        """
        return _preset(
            _rgb_depth_semantics(num_classes, patch_size, patch_size // 4),
            {"width": 96, "num_layers": 4, "num_heads": 4, "class_width": 16},
            {"decoder_width": 64, "decoder_layers": 1, "decoder_heads": 4},
            fields,
        )

    @classmethod
    def vit_s(
        cls, num_classes: int, *, patch_size: int = 16, **fields: Any
    ) -> "MultiMAE":
        """ViT-S: twelve blocks of width 384, 6 heads; the decoders of the paper.

        Args:
          num_classes: of the semantics, at stride patch_size / 4.
          patch_size: 16 pixels make 108 tokens of an image of 96 pixels.
          **fields: of `MultiModalEncoder` or of this class, to change.
        """
        return _preset(
            _rgb_depth_semantics(num_classes, patch_size, patch_size // 4),
            {"width": 384, "num_layers": 12, "num_heads": 6},
            {},
            fields,
        )

    @classmethod
    def vit_b(cls, num_classes: int = 133, **fields: Any) -> "MultiMAE":
        """The paper's: ViT-B/16, with positions counted in images of 224 pixels.

        Args:
          num_classes: of the semantics, at stride 4; 133 are those of COCO.
          **fields: of `MultiModalEncoder` or of this class, to change.
        """
        return _preset(
            _rgb_depth_semantics(num_classes, patch_size=16, stride=4),
            {"width": 768, "num_layers": 12, "num_heads": 12, "image_size": 224},
            {},
            fields,
        )


def _rgb_depth_semantics(
    num_classes: int, patch_size: int, stride: int
) -> tuple[Modality, ...]:
    return (
        Modality.rgb(patch_size),
        Modality.depth(patch_size),
        Modality.semantics(num_classes, patch_size, stride),
    )


def _preset(
    modalities: tuple[Modality, ...],
    of_encoder: dict[str, Any],
    of_model: dict[str, Any],
    changes: dict[str, Any],
) -> MultiMAE:
    own = {
        name: value
        for name, value in changes.items()
        if name.startswith("decoder_") or name == "balance_tasks"
    }
    encoder_changes = {k: v for k, v in changes.items() if k not in own}
    encoder = MultiModalEncoder(
        **{"modalities": modalities, **of_encoder, **encoder_changes}
    )
    return MultiMAE(encoder, **{**of_model, **own})


class _Decoder(nn.Module):
    """Reconstructs the patches of one modality."""

    modality: Modality
    names: tuple[str, ...]
    """Of the modalities whose tokens there are, in order."""
    num_global_tokens: int
    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: int
    dtype: Dtype
    remat: bool

    @nn.compact
    def __call__(
        self,
        encoded_BSE: Float[Array, "batch seq encoded"],
        mask: TokenMask,
        positions: Mapping[str, Float[np.ndarray, "patches width"]],
    ) -> Float[Array, "batch patches outputs"]:
        def normal(name):
            return self.param(name, nn.initializers.normal(0.02), (self.width,))

        context_BSD = nn.Dense(self.width, dtype=self.dtype, name="context")(
            encoded_BSE
        )
        dtype = context_BSD.dtype
        globals_BGD, visible_BVD = jnp.split(
            context_BSD, [self.num_global_tokens], axis=1
        )
        places = {
            name: normal(f"{name}_embedding")[None] + positions[name]
            for name in self.names
        }
        all_TD = jnp.concatenate(list(places.values())).astype(dtype)
        own_TD = places[self.modality.name].astype(dtype)

        # The modality's own tokens, where they are visible.
        start = sum(len(positions[name]) for name in self._before())
        own_places = mask.places[:, start : start + len(own_TD)]
        num_visible = mask.visible.shape[1]
        seen_BTD = take_tokens(visible_BVD, jnp.minimum(own_places, num_visible - 1))
        mask_token_D = normal("mask_token").astype(dtype)
        queries_BTD = own_TD[None] + jnp.where(
            (own_places < num_visible)[..., None], seen_BTD, mask_token_D[None, None]
        )
        context_BSD = jnp.concatenate(
            [globals_BGD, visible_BVD + all_TD[mask.visible]], axis=1
        )

        def norm(x_BTD):
            return nn.LayerNorm(dtype=self.dtype)(x_BTD)

        attend = make_attention(self.num_heads, self.dtype)
        x_BTD = attend(norm(queries_BTD), norm(context_BSD))
        x_BTD = x_BTD + mlp(norm(x_BTD), self.mlp_ratio, self.dtype)
        for block in make_blocks(
            self.num_layers,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            dtype=self.dtype,
            remat=self.remat,
        ):
            x_BTD = block(x_BTD, None, True)
        return nn.Dense(self.modality.num_outputs, dtype=self.dtype, name="outputs")(
            x_BTD
        )

    @nn.nowrap
    def _before(self) -> tuple[str, ...]:
        return self.names[: self.names.index(self.modality.name)]
