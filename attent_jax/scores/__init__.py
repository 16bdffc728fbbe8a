"""How much is there to learn from this example?  `(params, rng, batch) -> [batch]`."""

from attent_jax.scores._discrepancy import discrepancy, functional_gradient_norm
from attent_jax.scores._gradient_norm import gradient_norm
from attent_jax.scores._loss import loss, reducible_loss
from attent_jax.scores._masked_mean import masked_mean
from attent_jax.scores._ntk_guided import ntk_guided
from attent_jax.scores._score_table import ScoreTable
from attent_jax.scores._transforms import chain, ema, standardize, trim_top

__all__ = [
    "ScoreTable",
    "chain",
    "discrepancy",
    "ema",
    "functional_gradient_norm",
    "gradient_norm",
    "loss",
    "masked_mean",
    "ntk_guided",
    "reducible_loss",
    "standardize",
    "trim_top",
]
