"""Random projections of every example's gradients, whose products estimate the kernel.

A kernel of P parameters between N examples takes N·P numbers, or many passes. Projected
to k dimensions, each example's gradient takes k numbers and one pass, and inner
products are kept up to an error of about 1/√k (Johnson & Lindenstrauss, 1984). TRAK
(Park et al., 2023) attributes predictions to training examples in this way.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax.typing import Batch, Params, Trainable
from theory._checks import check_count
from theory._parameters import merge_params, split_params
from theory.empirical_ntk import DeterministicApplyFn

_SLICE = 2**20  # entries of a random matrix at a time


def sketched_features(
    apply_fn: DeterministicApplyFn,
    num_features: int,
    *,
    rng: jax.Array,
    projection: Literal["count_sketch", "gaussian"] = "count_sketch",
    batch_size: int | None = None,
    trainable: Trainable = True,
) -> Callable[[Params, Batch], Float[Array, "n ... num_features"]]:
    """Features whose inner products estimate the full empirical ANTK, in one pass.

    With g the gradient of an output and R the projection, φ = R g, and
    E⟨φ, φ'⟩ = ⟨g, g'⟩ = K. The estimate of each entry has a variance of at most
    (‖g‖²‖g'‖² + ⟨g, g'⟩²) / num_features. The same `rng` gives the same projection, so
    features of different examples, and of different parameters θ, belong together.

    Args:
      apply_fn: `(params, x) -> [n, ...]`, deterministic.
      num_features: k.
      rng: a typed key, for the projection.
      projection: "count_sketch" adds every entry, with a random sign, to one feature,
        and costs no more than the gradient. "gaussian" multiplies by a random matrix,
        which is drawn slice by slice and never held; it costs P·k per output.
      batch_size: examples at a time; memory is that of their gradients. None: all.
      trainable: which parameters count, as in `theory.empirical_ntk.empirical_ntk`.

    Returns:
      `(params, x) -> [n, ..., num_features]`, one row of features for each output.

    Raises:
      ValueError: if `projection` is unknown or a count is not positive.

    Reference:
      Charikar et al. (2002), Finding frequent items in data streams (the count sketch);
      Park et al. (2023), TRAK, equation 13.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from theory.sketching import sketched_features
      >>> features_fn = sketched_features(
      ...     lambda params, x: x @ params, 1000, rng=jax.random.key(0))
      >>> features = features_fn(jnp.zeros(3), jnp.eye(3))
      >>> features.shape
      (3, 1000)
    """
    check_count("num_features", num_features)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    projections = {"count_sketch": _count_sketch, "gaussian": _gaussian}
    if projection not in projections:
        raise ValueError(
            f"projection must be one of {', '.join(projections)}, got {projection!r}."
        )
    project = projections[projection]

    @jax.jit
    def features_fn(params: Params, x: Batch) -> Array:
        trained, frozen = split_params(params, trainable)

        def of_row(example: Batch) -> Array:
            def outputs_of(trained: Params) -> Array:
                row = jax.tree.map(lambda leaf: leaf[None], example)
                return apply_fn(merge_params(trained, frozen), row)[0]

            outputs, pull_back = jax.vjp(outputs_of, trained)
            basis = jnp.eye(outputs.size, dtype=outputs.dtype)
            (gradients,) = jax.vmap(pull_back)(basis.reshape(-1, *outputs.shape))
            features = jnp.zeros((outputs.size, num_features), outputs.dtype)
            for number, leaf in enumerate(jax.tree.leaves(gradients)):
                rows = leaf.reshape(outputs.size, -1).astype(outputs.dtype)
                key = jax.random.fold_in(rng, number)
                features = features + project(key, rows, num_features)
            return features.reshape(*outputs.shape, num_features)

        if batch_size is None:
            return jax.vmap(of_row)(x)
        return jax.lax.map(of_row, x, batch_size=batch_size)

    return features_fn


def _count_sketch(
    key: jax.Array, rows: Float[Array, "outputs entries"], num_features: int
) -> Float[Array, "outputs num_features"]:
    signs_key, features_key = jax.random.split(key)
    num_entries = rows.shape[1]
    signs = jax.random.rademacher(signs_key, (num_entries,), rows.dtype)
    feature_of = jax.random.randint(features_key, (num_entries,), 0, num_features)
    sums = jax.ops.segment_sum((rows * signs[None]).T, feature_of, num_features)
    return sums.T


def _gaussian(
    key: jax.Array, rows: Float[Array, "outputs entries"], num_features: int
) -> Float[Array, "outputs num_features"]:
    num_outputs, num_entries = rows.shape
    width = min(num_entries, max(1, _SLICE // num_features))
    num_slices = math.ceil(num_entries / width)
    rows = jnp.pad(rows, ((0, 0), (0, num_slices * width - num_entries)))

    def add(features: Array, number: Array) -> tuple[Array, None]:
        some = jax.lax.dynamic_slice_in_dim(rows, number * width, width, axis=1)
        shape = (width, num_features)
        matrix = jax.random.normal(jax.random.fold_in(key, number), shape, rows.dtype)
        return features + some @ matrix, None

    empty = jnp.zeros((num_outputs, num_features), rows.dtype)
    features, _ = jax.lax.scan(add, empty, jnp.arange(num_slices))
    return features / num_features**0.5
