"""Learners in Flax (Linen): attention, and coordinate networks.

Nothing else in the library needs them.
"""

from attent_jax.models._attention_learner import AttentionLearner
from attent_jax.models._coordinate_networks import FourierMLP, Siren
from attent_jax.models._decoder import Decoder
from attent_jax.models._decoder_cache import DecoderCache
from attent_jax.models._decoder_config import DecoderConfig
from attent_jax.models._finetuning import (
    berhu,
    cutmix,
    layer_decay,
    load_encoder,
    mixup,
    scale_by_path,
)
from attent_jax.models._generate import Generated, generate
from attent_jax.models._language import TextClassifier
from attent_jax.models._masking import TokenMask, dirichlet_masks, example_rngs
from attent_jax.models._modalities import (
    Modality,
    blank_inputs,
    patchify,
    prepare_inputs,
    standardize_depth,
    unpatchify,
)
from attent_jax.models._multimae import MultiMAE
from attent_jax.models._multimae_loss import (
    multimae_loss,
    normalize_patches,
    reconstruction_losses,
)
from attent_jax.models._multimodal_encoder import Encoded, MultiModalEncoder
from attent_jax.models._reconstructions import reconstructions
from attent_jax.models._transfer import (
    DepthModel,
    MultiModalClassifier,
    SegmentationModel,
)
from attent_jax.models._vision_transformer import VisionTransformer

__all__ = [
    "AttentionLearner",
    "Decoder",
    "DecoderCache",
    "DecoderConfig",
    "DepthModel",
    "Encoded",
    "FourierMLP",
    "Generated",
    "Modality",
    "MultiMAE",
    "MultiModalClassifier",
    "MultiModalEncoder",
    "SegmentationModel",
    "Siren",
    "TextClassifier",
    "TokenMask",
    "VisionTransformer",
    "berhu",
    "blank_inputs",
    "cutmix",
    "dirichlet_masks",
    "example_rngs",
    "generate",
    "layer_decay",
    "load_encoder",
    "mixup",
    "multimae_loss",
    "normalize_patches",
    "patchify",
    "prepare_inputs",
    "reconstruction_losses",
    "reconstructions",
    "scale_by_path",
    "standardize_depth",
    "unpatchify",
]
