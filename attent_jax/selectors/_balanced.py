"""Selection by class frequency: the control that needs labels but no losses."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from attent_jax._checks import check_number
from attent_jax.selectors._gumbel_top_k import gumbel_top_k
from attent_jax.selectors._selection import check_scores
from attent_jax.typing import SelectFn


def balanced(classes: Int[np.ndarray, "pool"], power: float = 0.5) -> SelectFn:
    """Draw without replacement, rare classes more often than their share.

    Each example is drawn with probability ∝ frequency(its class)^(power − 1), so that
    while examples last a class appears ∝ frequency^power: 1 draws as `uniform`, ½ by
    the square root of the frequency, 0 all classes alike.

    Args:
      classes: `[pool]` the class of each example, non-negative integers.
      power: in [0, 1].

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`; of the scores only the number
      counts.

    Raises:
      TypeError, ValueError: for classes that are not `[pool]` non-negative integers,
        or a power outside [0, 1]; from the selector as in `top_k`, and for scores
        of another pool.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, attent_jax
      >>> classes = np.array([0] * 990 + [1] * 10)
      >>> select = attent_jax.selectors.balanced(classes, power=0.0)
      >>> selection = select(jax.random.key(0), jnp.zeros(1000), 8)
      >>> bool(classes[selection.indices[:8]].sum() > 1)  # 0.08 expected if uniform
      True

    Reference: Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining
    (ECCV 2018), section 2.2.
    """
    power = check_number("power", power, low=0.0, high=1.0)
    classes = np.asarray(classes)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(
            f"classes must be integers of shape [pool], got {classes.dtype} of shape "
            f"{classes.shape}: pass one class number per example."
        )
    if not classes.size or classes.min() < 0:
        raise ValueError(
            "classes must be non-empty and non-negative: number the classes from 0."
        )
    frequency = np.bincount(classes)[classes]
    logits = ((power - 1) * np.log(frequency)).astype(np.float32)
    draw = gumbel_top_k(temperature=1.0)

    def select(rng, scores, num_selected):
        check_scores(scores, num_selected)
        if scores.shape != logits.shape:
            raise ValueError(
                f"scores has {scores.size} examples but classes has {logits.size}: "
                f"both must describe the same pool."
            )
        return draw(rng, jnp.asarray(logits), num_selected)

    return select
