"""Attention learners in Flax (Linen). Nothing else in the library needs them."""

from attent_jax.models._attention_learner import AttentionLearner
from attent_jax.models._language import DecoderLM, TextClassifier
from attent_jax.models._vision_transformer import VisionTransformer

__all__ = ["AttentionLearner", "DecoderLM", "TextClassifier", "VisionTransformer"]
