"""Maps from scores to scores, between scoring and selection.

Scores that are not finite keep their meaning (+inf first, −inf last, NaN: no score)
and do not enter any statistic.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attent_jax._checks import check_number, factory_hint, pool_scores, shown
from attent_jax._factories import described
from attent_jax._partition import largest, sortable
from attent_jax.typing import Scores, ScoreTransform


@described
def standardize() -> ScoreTransform:
    """Mean 0 and standard deviation 1 over the pool's finite scores.

    With it the temperature of `gumbel_top_k` is in standard deviations, whatever the
    loss. Scores without spread become 0.

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
        # Relative to the least score, so that equal scores have a spread of exactly 0.
        above = scores - jnp.min(scores, where=finite, initial=jnp.inf)
        mean = jnp.mean(above, where=finite)
        spread = jnp.std(above, where=finite)
        scaled = (above - mean) / jnp.where(spread > 0, spread, jnp.ones_like(spread))
        return jnp.where(finite, scaled, scores), state

    return ScoreTransform(_no_state, _compiled(update))


class EmaState(NamedTuple):
    """What `ema` carries from update to update."""

    average: Float[Array, "pool"]
    """`[pool]` the averages; 0 where there is no score yet."""
    is_scored: Bool[Array, "pool"]
    """`[pool]` whether the example has had a score."""


@described
def ema(decay: float) -> ScoreTransform:
    """Exponential moving average over updates: decay · old + (1 − decay) · new.

    An example's first finite score is taken as it is. A NaN (no score this time)
    leaves the example's average as it was.

    Args:
      decay: in [0, 1).

    Returns:
      A `ScoreTransform` whose state is the averages, and which examples have one.

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
        """`(num_examples) -> state`, in which no example has a score."""
        return EmaState(jnp.zeros(num_examples, float), jnp.zeros(num_examples, bool))

    def update(scores, state):
        # Not a NaN in the state, which jax_debug_nans would report.
        old = jnp.where(state.is_scored, state.average, jnp.inf)
        scores = scores.astype(old.dtype)
        is_scored = state.is_scored | ~jnp.isnan(scores)
        average = jnp.where(is_scored, blend(old, scores, decay), 0)
        scores = jnp.where(is_scored, average, jnp.nan)
        return scores, EmaState(average, is_scored)

    return ScoreTransform(init, _compiled(update))


@described
def trim_top(quantile: float) -> ScoreTransform:
    """Send the scores above a quantile to −inf, a guard against mislabelled examples.

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

    return ScoreTransform(_no_state, _compiled(update))


@described
def chain(*transforms: ScoreTransform) -> ScoreTransform:
    """Apply transforms one after the other.

    Args:
      *transforms: in the order of application.

    Returns:
      A `ScoreTransform` whose state is the tuple of theirs.

    Raises:
      TypeError: if one of them is not a `ScoreTransform`.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> transform = attent_jax.scores.chain(
      ...     attent_jax.scores.ema(0.9), attent_jax.scores.standardize())
      >>> transform.update(jnp.array([1.0, 3.0]), transform.init(2))[0]
      Array([-1.,  1.], dtype=float32)
    """
    for i, transform in enumerate(transforms):
        check_transform(f"transforms[{i}]", transform)

    def init(num_examples):
        """`(num_examples) -> state`, a tuple of the transforms' states."""
        return tuple(transform.init(num_examples) for transform in transforms)

    def update(scores, state):
        new_state = []
        for transform, one in zip(transforms, state, strict=True):
            scores, one = transform.update(scores, one)
            new_state.append(one)
        return scores, tuple(new_state)

    return ScoreTransform(init, _compiled(update))


def check_transform(name: str, transform: Any) -> None:
    """Refuse what is not a score transform."""
    if type(transform) in (list, tuple):
        raise TypeError(
            f"{name} must be one ScoreTransform, got a {type(transform).__name__}: "
            f"join several with attent_jax.scores.chain(first, second)."
        )
    if not all(callable(getattr(transform, part, None)) for part in ("init", "update")):
        raise TypeError(
            f"{name} must be a ScoreTransform, got {shown(transform)}: pass e.g. "
            f"attent_jax.scores.standardize(){factory_hint(transform)}."
        )


def blend(old: Scores, new: Scores, decay: Any) -> Float[Array, "pool"]:
    """decay · old + (1 − decay) · new where both are finite, else new, NaN ignored."""
    both = jnp.isfinite(old) & jnp.isfinite(new)
    blended = jnp.where(both, decay * old + (1 - decay) * new, new)
    return jnp.where(jnp.isnan(new), old, blended)


def check_decay(decay: float) -> float:
    """`decay` as a float in [0, 1)."""
    decay = check_number("decay", decay, low=0, high=1)
    if decay == 1:
        raise ValueError("decay is 1, which would never learn a new score: lower it.")
    return decay


def _no_state(num_examples):
    """`(num_examples) -> ()`: nothing is carried."""
    return ()


def _compiled(update: Callable) -> Callable:
    """`update` jitted, for any array or list of scores.

    NaN means "no score" here, so `jax_debug_nans` is off within.
    """
    jitted = jax.jit(update)

    def transform_scores(scores, state):
        """`(scores[pool], state) -> (scores[pool], state)`."""
        with jax.debug_nans(False):
            return jitted(pool_scores(scores), state)

    return transform_scores
