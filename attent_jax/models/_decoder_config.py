"""What a decoder is made of."""

import dataclasses
from typing import Literal

from attent_jax._checks import check_count, check_number


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder: Llama 2, Mistral and Gemma are values of it.

    Change a preset with `dataclasses.replace`.

    Example:
      >>> import dataclasses, attent_jax
      >>> config = attent_jax.models.DecoderConfig.mistral_7b()
      >>> config.num_heads // config.num_kv_heads, config.sliding_window
      (4, 4096)
      >>> dataclasses.replace(config, num_layers=2).num_layers
      2
    """

    vocabulary_size: int
    width: int
    """Of the hidden states."""
    num_layers: int
    num_heads: int
    """Of the queries."""
    num_kv_heads: int
    """Of the keys and values; each serves num_heads / num_kv_heads query heads."""
    head_width: int
    mlp_width: int
    activation: Literal["silu", "gelu"] = "silu"
    """Of the MLP's gate; "gelu" is the tanh approximation."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths, which are 2π theta^(2i / head_width) tokens."""
    rope_scale: float = 1.0
    """Positions are divided by it (linear position interpolation)."""
    norm_epsilon: float = 1e-5
    norm_offset: float = 0.0
    """Added to the norms' weights; 1 for Gemma."""
    scale_embeddings: bool = False
    """Whether embeddings are multiplied by √width, as in Gemma."""
    tie_embeddings: bool = False
    """Whether the output layer is the embedding table."""
    sliding_window: int | None = None
    """Tokens a token attends to, itself included; None: all before it."""

    def __post_init__(self):
        for name in ("vocabulary_size", "width", "num_layers", "mlp_width"):
            check_count(name, getattr(self, name))
        check_count("num_heads", self.num_heads)
        check_count("num_kv_heads", self.num_kv_heads)
        check_count("head_width", self.head_width, minimum=2)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads is {self.num_heads} and num_kv_heads {self.num_kv_heads}: "
                f"choose a number of key heads that divides the number of query heads."
            )
        if self.head_width % 2:
            raise ValueError(
                f"head_width must be even, got {self.head_width}: rotary positions "
                f"turn pairs of its entries."
            )
        if self.activation not in ("silu", "gelu"):
            raise ValueError(
                f"activation must be 'silu' or 'gelu', got {self.activation!r}."
            )
        for name in ("rope_theta", "rope_scale"):
            check_number(name, getattr(self, name), low=0, low_excluded=True)
        check_number("norm_epsilon", self.norm_epsilon, low=0)
        if self.sliding_window is not None:
            check_count("sliding_window", self.sliding_window)

    @classmethod
    def tiny(cls, vocabulary_size: int = 256) -> "DecoderConfig":
        """Two layers of width 32: for tests and examples."""
        return cls(
            vocabulary_size,
            width=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_width=8,
            mlp_width=64,
            tie_embeddings=True,
        )

    @classmethod
    def llama_125m(cls, vocabulary_size: int = 50_304) -> "DecoderConfig":
        """Llama's architecture at GPT-2's smallest size: 124 million parameters."""
        return cls(
            vocabulary_size,
            width=768,
            num_layers=12,
            num_heads=12,
            num_kv_heads=12,
            head_width=64,
            mlp_width=2048,
            tie_embeddings=True,
        )

    @classmethod
    def llama_350m(cls, vocabulary_size: int = 50_304) -> "DecoderConfig":
        """Llama's architecture at GPT-2's second size: 360 million parameters."""
        return cls(
            vocabulary_size,
            width=1024,
            num_layers=24,
            num_heads=16,
            num_kv_heads=16,
            head_width=64,
            mlp_width=2816,
            tie_embeddings=True,
        )

    @classmethod
    def llama2_7b(cls) -> "DecoderConfig":
        """Llama 2 7B: 6.7 billion parameters.

        Reference: Touvron et al., Llama 2 (arXiv 2307.09288).
        """
        return cls(
            vocabulary_size=32_000,
            width=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=32,
            head_width=128,
            mlp_width=11_008,
        )

    @classmethod
    def mistral_7b(cls) -> "DecoderConfig":
        """Mistral 7B v0.1: 7.2 billion parameters.

        Reference: Jiang et al., Mistral 7B (arXiv 2310.06825), table 1.
        """
        return cls(
            vocabulary_size=32_000,
            width=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=8,
            head_width=128,
            mlp_width=14_336,
            sliding_window=4096,
        )

    @classmethod
    def gemma_7b(cls) -> "DecoderConfig":
        """Gemma 7B: 8.5 billion parameters.

        Reference: Gemma Team, Gemma (arXiv 2403.08295), table 1. The MLP width there,
        49152, counts the gate and the up projection together.
        """
        return cls(
            vocabulary_size=256_000,
            width=3072,
            num_layers=28,
            num_heads=16,
            num_kv_heads=16,
            head_width=256,
            mlp_width=24_576,
            activation="gelu",
            norm_epsilon=1e-6,
            norm_offset=1.0,
            scale_embeddings=True,
            tie_embeddings=True,
        )
