"""Downstream measures: accuracy, mean IoU, and the errors of depth.

Each is a sum that can be accumulated over batches, shards and hosts, and divided at the
end. All functions work under jit and on NumPy arrays.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

_DELTA = 1.25


class Mean(NamedTuple):
    """A mean that is still being summed."""

    total: Float[Array | np.ndarray, ""]
    num_examples: Float[Array | np.ndarray, ""]

    def result(self) -> float:
        """The mean; NaN of nothing."""
        num_examples = float(self.num_examples)
        return float(self.total) / num_examples if num_examples else float("nan")


def correct(
    logits: Float[Array | np.ndarray, "batch classes"],
    labels: Int[Array | np.ndarray, "batch"],
) -> Float[Array, "batch"]:
    """1 where the largest logit is the label's, else 0.

    Args:
      logits: `[batch, classes]`.
      labels: `[batch]`.
    """
    return jnp.asarray(jnp.argmax(logits, axis=-1) == labels, jnp.float32)


def accuracy(
    logits: Float[Array | np.ndarray, "batch classes"],
    labels: Int[Array | np.ndarray, "batch"],
) -> Mean:
    """Share of the examples whose largest logit is the label's.

    Args:
      logits: `[batch, classes]`.
      labels: `[batch]`; negative: the example is padding and does not count.

    Example:
      >>> import jax.numpy as jnp
      >>> accuracy(jnp.eye(3), jnp.array([0, 2, -1])).result()
      0.5
    """
    counts = (jnp.asarray(labels) >= 0).astype(jnp.float32)
    return Mean(jnp.sum(correct(logits, labels) * counts), jnp.sum(counts))


def confusion(
    predicted: Int[Array | np.ndarray, "*pixels"],
    labels: Int[Array | np.ndarray, "*pixels"],
    num_classes: int,
) -> Int[Array, "classes classes"]:
    """Count the pairs of true and predicted classes; sum the results of all batches.

    Args:
      predicted: classes in [0, num_classes).
      labels: the true classes; out of that range, such as 255: the pixel has no class
        and does not count.
      num_classes: of both.

    Returns:
      `[num_classes, num_classes]` pixels by true class (rows) and predicted class
      (columns), int32: at most 2³¹ - 1 pixels of a pair in one call. Sum on the host
      in int64.

    Example:
      >>> import jax.numpy as jnp
      >>> confusion(jnp.array([0, 1, 1]), jnp.array([0, 0, 255]), 2).tolist()
      [[1, 1], [0, 0]]
    """
    predicted, labels = (
        jnp.ravel(jnp.asarray(values)).astype(jnp.int32)
        for values in (predicted, labels)
    )
    is_known = (labels >= 0) & (labels < num_classes)
    pairs = jnp.where(is_known, labels * num_classes + predicted, num_classes**2)
    counts = jnp.bincount(pairs, length=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes)


def mean_iou(matrix: Int[Array | np.ndarray, "classes classes"]) -> float:
    """The mean over classes of intersection over union, in [0, 1].

    Args:
      matrix: the sum of `confusion` over all pictures. Classes that are neither there
        nor predicted are left out of the mean.

    Example:
      >>> import numpy as np
      >>> mean_iou(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]]))
      0.5833333333333333
    """
    matrix = np.asarray(matrix, np.float64)
    both = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    return float(np.mean(both[union > 0] / union[union > 0])) if union.any() else np.nan


class DepthErrors(NamedTuple):
    """Sums of the errors of depth over pixels with a depth."""

    num_pixels: Float[Array, "*batch"]
    within_1: Float[Array, "*batch"]
    within_2: Float[Array, "*batch"]
    within_3: Float[Array, "*batch"]
    """Pixels with max(predicted / true, true / predicted) below 1.25, 1.25², 1.25³."""
    squared: Float[Array, "*batch"]
    """Sum of (predicted - true)²."""
    relative: Float[Array, "*batch"]
    """Sum of |predicted - true| / true."""


def depth_errors(
    predicted: Float[Array | np.ndarray, "batch *pixels"],
    depth: Float[Array | np.ndarray, "batch *pixels"],
    valid: Bool[Array | np.ndarray, "batch *pixels"] | None = None,
) -> DepthErrors:
    """The errors of depth, summed over the pixels of each picture.

    Args:
      predicted: `[batch, ...]` in metres. What is not above 0 or not finite counts as
        wrong in δ1 to δ3, and as 0 in the other errors.
      depth: `[batch, ...]` the true depth in metres.
      valid: which pixels count. None: those whose true depth is finite and above 0.
        Pixels without such a depth never count.

    Returns:
      Sums `[batch]`.

    Example:
      >>> import jax.numpy as jnp
      >>> errors = depth_errors(jnp.array([[2.0, 3.0]]), jnp.array([[2.0, 2.0]]))
      >>> summarize_depth(errors)["delta1"]
      0.5
    """
    predicted, depth = (
        jnp.asarray(values).astype(jnp.float32) for values in (predicted, depth)
    )
    counts = jnp.isfinite(depth) & (depth > 0)
    if valid is not None:
        counts = counts & jnp.asarray(valid)
    is_usable = jnp.isfinite(predicted) & (predicted > 0)
    # Where a pixel does not count, its numbers must not make NaN.
    true = jnp.where(counts, depth, 1.0)
    guess = jnp.where(counts & is_usable, predicted, 0.0)
    factor = jnp.maximum(guess / true, true / jnp.maximum(guess, 1e-30))
    error = jnp.abs(guess - true)

    def total(values: Shaped[Array, "..."]) -> Array:
        values = jnp.where(counts, values.astype(jnp.float32), 0.0)
        return jnp.sum(values, axis=tuple(range(1, values.ndim)))

    return DepthErrors(
        total(counts),
        total(factor < _DELTA),
        total(factor < _DELTA**2),
        total(factor < _DELTA**3),
        total(error**2),
        total(error / true),
    )


def summarize_depth(errors: DepthErrors) -> dict[str, float]:
    """The measures of depth over all pixels that count.

    Args:
      errors: of any number of pictures and batches; leaves of any shape.

    Returns:
      "delta1", "delta2", "delta3" in [0, 1], "rmse" in metres, "abs_rel". NaN if no
      pixel counts.

    Reference: Eigen et al., Depth Map Prediction from a Single Image (NeurIPS 2014).
    """
    sums = jax.tree.map(lambda leaf: float(np.sum(np.asarray(leaf, float))), errors)
    count = sums.num_pixels or float("nan")
    return {
        "delta1": sums.within_1 / count,
        "delta2": sums.within_2 / count,
        "delta3": sums.within_3 / count,
        "rmse": (sums.squared / count) ** 0.5,
        "abs_rel": sums.relative / count,
    }
