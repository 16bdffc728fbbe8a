"""Learners in Flax (Linen): attention, and coordinate networks.

Nothing else in the library needs them.
"""

from attent_jax.models._attention_learner import AttentionLearner
from attent_jax.models._coordinate_networks import FourierMLP, Siren
from attent_jax.models._decoder import Decoder
from attent_jax.models._decoder_cache import DecoderCache
from attent_jax.models._decoder_config import DecoderConfig
from attent_jax.models._generate import Generated, generate
from attent_jax.models._language import TextClassifier
from attent_jax.models._vision_transformer import VisionTransformer

__all__ = [
    "AttentionLearner",
    "Decoder",
    "DecoderCache",
    "DecoderConfig",
    "FourierMLP",
    "Generated",
    "Siren",
    "TextClassifier",
    "VisionTransformer",
    "generate",
]
