"""The teacher to begin with."""

import jax.numpy as jnp
from jax.sharding import Mesh

from attent_jax._checks import check_count
from attent_jax._factories import described
from attent_jax.selectors import gumbel_top_k, mix_uniform
from attent_jax.teachers._attent import attent
from attent_jax.typing import Scores, Teacher

_RATIO, _UNIFORM_SHARE, _TEMPERATURE = 0.3, 0.3, 1.0
_NUM_WARMUP_EPOCHS, _FINAL_SHARE = 0.5, 0.12


@described
def recommended(num_epochs: int | None = None, *, mesh: Mesh | None = None) -> Teacher:
    """Select each epoch by the losses of training: no scoring pass is needed.

    Every epoch trains on 30 % of the pool: seven tenths of it drawn with probability
    ∝ loss (Gumbel-top-k on the log of the loss), three tenths uniformly. Before that,
    half an epoch of warm-up; at the end, 12 % of the examples trained on come from
    the full pool. Give it the scores of `scores.ScoreTable`.

    Losses may be any real numbers. Where some are negative, as the negative
    log-likelihood of a density can be, the least of them is subtracted from all, and
    the probability is ∝ loss − least loss. The examples with the least loss are then
    drawn by the uniform part only.

    Args:
      num_epochs: of the whole training, at least 3. None: there are no final epochs.
      mesh: as in `selectors.top_k`: each device works on its own share of the scores.

    Returns:
      A `Teacher`.

    Raises:
      TypeError, ValueError: if `num_epochs` is not an integer of at least 3.

    Example:
      >>> import attent_jax
      >>> print(attent_jax.teachers.plan(
      ...     attent_jax.teachers.recommended(num_epochs=6),
      ...     num_examples=1000, num_epochs=6, batch_size=50))
      epoch  scores  num_selected  steps
          0       -           500     10
          1     yes           300      6
          2     yes           300      6
          3     yes           300      6
          4     yes           300      6
          5       -           231      5

    The numbers were chosen with prototypes on several workloads; the demo compares
    this teacher with its controls.
    """
    final = 0.0
    if num_epochs is not None:
        check_count("num_epochs", num_epochs, minimum=3)
        final = _num_final_epochs(num_epochs)
    draw = gumbel_top_k(_TEMPERATURE, mesh=mesh)

    def by_loss(rng, losses, num_selected):
        return draw(rng, jnp.log(_non_negative(losses)), num_selected)

    return attent(
        mix_uniform(by_loss, _UNIFORM_SHARE, mesh=mesh),
        ratio=_RATIO,
        num_warmup_epochs=_NUM_WARMUP_EPOCHS,
        num_epochs=num_epochs,
        num_final_epochs=final,
    )


def _non_negative(losses: Scores) -> Scores:
    """The losses less the least finite one where that is negative, else unchanged."""
    least = jnp.min(losses, where=jnp.isfinite(losses), initial=0)
    return jnp.where(losses == -jnp.inf, 0, losses - least)


def _num_final_epochs(num_epochs: int) -> float:
    """How many final epochs make 12 % of all examples trained on come from them."""
    odds = _FINAL_SHARE / (1 - _FINAL_SHARE)
    for num_final in range(1, num_epochs):
        num_taught = num_epochs - 1 - num_final
        final = odds * (_NUM_WARMUP_EPOCHS + _RATIO * num_taught)
        if final <= num_final:
            return max(final, num_final - 1)
    return 0.0
