"""Maps from scores to scores, between scoring and selection.

Non-finite scores keep their meaning (+inf first, −inf last, NaN: no score) and do not
enter any statistic.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax._checks import check_number
from attent_jax._partition import largest, sortable
from attent_jax.typing import Scores, ScoreTransform


def standardize() -> ScoreTransform:
    """Mean 0 and standard deviation 1 over the pool's finite scores.

    Gives `gumbel_top_k` a temperature in standard deviations, whatever the loss.
    Scores without spread become 0.

    Returns:
      A stateless `ScoreTransform`.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> transform = attent_jax.scores.standardize()
      >>> scores, state = transform.update(jnp.array([1.0, 3.0]), transform.init(2))
      >>> scores
      Array([-1.,  1.], dtype=float32)
    """

    def update(scores, state):
        finite = jnp.isfinite(scores)
        # From the least score on: equal scores then have no spread, not a rounding's.
        above = scores - jnp.min(scores, where=finite, initial=jnp.inf)
        mean = jnp.mean(above, where=finite)
        spread = jnp.std(above, where=finite)
        scaled = (above - mean) / jnp.where(spread > 0, spread, 1)
        return jnp.where(finite, scaled, scores), state

    return ScoreTransform(lambda num_examples: (), update)


def ema(decay: float) -> ScoreTransform:
    """Exponential moving average over updates: decay · old + (1 − decay) · new.

    An example's first finite score is taken as it is; a NaN (no score this time)
    leaves its average alone.

    Args:
      decay: in [0, 1).

    Returns:
      A `ScoreTransform` whose state is the average, `[pool]`.

    Raises:
      ValueError: for a decay outside [0, 1).

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> transform = attent_jax.scores.ema(decay=0.5)
      >>> state = transform.init(2)
      >>> _, state = transform.update(jnp.array([1.0, 3.0]), state)
      >>> scores, _ = transform.update(jnp.array([3.0, jnp.nan]), state)
      >>> scores
      Array([2., 3.], dtype=float32)
    """
    decay = check_decay(decay)

    def init(num_examples):
        return jnp.full(num_examples, jnp.nan, dtype=float)

    def update(scores, state):
        average = blend(state, scores, decay).astype(state.dtype)
        return average, average

    return ScoreTransform(init, update)


def trim_top(quantile: float) -> ScoreTransform:
    """Send the scores above a quantile to −inf: guards against mislabelled examples.

    The 1 − quantile highest scores, floor((1 − quantile) · pool) of them, are taught
    last. Beware that rare classes have high losses too.

    Args:
      quantile: in (0, 1]; 0.95 trims the top 5 %.

    Returns:
      A stateless `ScoreTransform`.

    Raises:
      ValueError: for a quantile outside (0, 1].

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> transform = attent_jax.scores.trim_top(0.75)
      >>> transform.update(jnp.array([1.0, 9.0, 2.0, 3.0]), transform.init(4))[0]
      Array([  1., -inf,   2.,   3.], dtype=float32)
    """
    quantile = check_number("quantile", quantile, low=0, high=1, low_excluded=True)

    def update(scores, state):
        num_trimmed = int((1 - quantile) * scores.size + 1e-6)  # 1 − 0.9 < 0.1
        trimmed = largest(jnp.array(num_trimmed, jnp.int32), sortable(scores))
        return jnp.where(trimmed, -jnp.inf, scores), state

    return ScoreTransform(lambda num_examples: (), update)


def chain(*transforms: ScoreTransform) -> ScoreTransform:
    """Apply transforms one after the other.

    Args:
      *transforms: in the order of application.

    Returns:
      A `ScoreTransform` whose state is the tuple of theirs.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> transform = attent_jax.scores.chain(
      ...     attent_jax.scores.ema(0.9), attent_jax.scores.standardize())
      >>> transform.update(jnp.array([1.0, 3.0]), transform.init(2))[0]
      Array([-1.,  1.], dtype=float32)
    """

    def init(num_examples):
        return tuple(transform.init(num_examples) for transform in transforms)

    def update(scores, state):
        new_state = []
        for transform, one in zip(transforms, state, strict=True):
            scores, one = transform.update(scores, one)
            new_state.append(one)
        return scores, tuple(new_state)

    return ScoreTransform(init, update)


def blend(old: Scores, new: Scores, decay: float) -> Float[Array, "pool"]:
    """decay · old + (1 − decay) · new where both are finite, else new, NaN ignored."""
    both = jnp.isfinite(old) & jnp.isfinite(new)
    blended = jnp.where(both, decay * old + (1 - decay) * new, new)
    return jnp.where(jnp.isnan(new), old, blended)


def check_decay(decay: float) -> float:
    decay = check_number("decay", decay, low=0, high=1)
    if decay == 1:
        raise ValueError("decay is 1, which would never learn a new score: lower it.")
    return decay
