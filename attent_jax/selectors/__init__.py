"""Which examples next?  `(rng, scores[pool], num_selected) -> Selection`."""

from attent_jax.selectors._balanced import balanced
from attent_jax.selectors._gumbel_top_k import gumbel_top_k
from attent_jax.selectors._mix_uniform import mix_uniform
from attent_jax.selectors._nint import NintScores, nint
from attent_jax.selectors._top_k import top_k
from attent_jax.selectors._uniform import uniform

__all__ = [
    "NintScores",
    "balanced",
    "gumbel_top_k",
    "mix_uniform",
    "nint",
    "top_k",
    "uniform",
]
