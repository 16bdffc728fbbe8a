"""Selection by class frequency: a control that needs labels but no losses."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from attent_jax._checks import check_number, check_rng
from attent_jax._factories import described
from attent_jax.selectors._gumbel_top_k import select_soft
from attent_jax.selectors._selection import check_mesh, check_pool
from attent_jax.typing import SelectFn


@described
def balanced(
    labels: Int[np.ndarray, "pool"] | Int[Array, "pool"] | Sequence[int],
    power: float = 0.5,
    *,
    mesh: Mesh | None = None,
) -> SelectFn:
    """Draw without replacement, rare classes more often than their share.

    Each example is drawn with probability ∝ frequency(its class)^(power − 1), so that
    while examples last a class appears ∝ frequency^power: 1 draws as `uniform`, ½ by
    the square root of the frequency, 0 all classes alike. Of the scores only `isnan`
    is read: examples whose score is NaN are taken last.

    Args:
      labels: `[pool]` the class of each example, non-negative integers.
      power: in [0, 1].
      mesh: as in `gumbel_top_k`.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`, as `top_k`.

    Raises:
      TypeError: for labels that are not integers of shape `[pool]`, or a power that is
        no number; from the selector as in `gumbel_top_k`.
      ValueError: for no or negative labels, or a power outside [0, 1]; from the
        selector as in `top_k`, and for a pool of another size than the labels.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, attent_jax
      >>> labels = np.array([0] * 990 + [1] * 10)
      >>> select = attent_jax.selectors.balanced(labels, power=0.0)
      >>> selection = select(jax.random.key(0), jnp.zeros(1000), 8)
      >>> bool(labels[selection.indices[:8]].sum() > 1)  # 0.08 expected if uniform
      True

    Reference: Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining
    (ECCV 2018), section 2.2.
    """
    power = check_number("power", power, low=0.0, high=1.0)
    check_mesh(mesh)
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            f"labels must be integers of shape [pool], got {labels.dtype} of shape "
            f"{labels.shape}: pass one class number per example."
        )
    if not labels.size or labels.min() < 0:
        raise ValueError(
            "labels must be non-empty and non-negative: number the classes from 0."
        )
    _, label_of, num_of_label = np.unique(
        labels, return_inverse=True, return_counts=True
    )
    logits = ((power - 1) * np.log(num_of_label[label_of])).astype(np.float32)

    def select(rng, scores, num_selected):
        """`(rng, scores[pool], num_selected) -> Selection` by class frequency."""
        check_rng("rng", rng)
        scores, num_selected = check_pool(scores, num_selected)
        if scores.shape != logits.shape:
            raise ValueError(
                f"scores has {scores.size} examples but labels has {logits.size}: "
                f"both must describe the same pool."
            )
        return _select(rng, scores, num_selected, logits, mesh=mesh)

    return select


@partial(jax.jit, static_argnames="mesh")
def _select(rng, scores, num_selected, logits, *, mesh):
    logits = jnp.where(jnp.isnan(scores), jnp.float32(jnp.nan), logits)
    return select_soft(rng, logits, num_selected, temperature=1.0, mesh=mesh)
