"""Selection within equal, contiguous groups of a batch.

With as many groups as shards, each device selects and gathers among its own rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from attent_jax.typing import Rng, SelectFn


def select_in_groups(
    select_fn: SelectFn,
    rng: Rng,
    scores: Float[Array, "batch"],
    row_weights: Float[Array, "batch"] | None,
    num_selected: int,
    num_groups: int,
) -> tuple[Int[Array, "groups selected"], Float[Array, "groups selected"]]:
    """Select num_selected / num_groups rows of each group.

    Rows of weight 0 are shown to the selector as NaN. With several groups, each folds
    its number into rng, so the result does not depend on the devices.

    Returns:
      `(indices, weights)`: positions within the group, and loss weights, those of the
      selector times those of the rows.
    """
    per_group = num_selected // num_groups

    def select(rng, scores, row_weights):
        if row_weights is not None:
            scores = jnp.where(row_weights > 0, scores, jnp.full_like(scores, jnp.nan))
        selection: Any = select_fn(rng, scores, per_group)
        indices = selection.indices[:per_group]
        weights = selection.weights[:per_group]
        if row_weights is not None:
            dtype = np.promote_types(weights.dtype, row_weights.dtype)
            weights = weights.astype(dtype) * row_weights[indices].astype(dtype)
        return indices, weights

    if num_groups == 1:
        return jax.tree.map(lambda leaf: leaf[None], select(rng, scores, row_weights))
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    rngs = None if rng is None else fold_in(rng, jnp.arange(num_groups))
    return jax.vmap(select)(
        rngs,
        *jax.tree.map(lambda leaf: leaf.reshape(num_groups, -1), (scores, row_weights)),
    )


def batch_rows(
    indices: Int[Array, "groups selected"], num_examples: int
) -> Int[Array, "all_selected"]:
    """The rows' numbers in the batch, group after group."""
    num_groups = len(indices)
    starts = num_examples // num_groups * lax.iota(indices.dtype, num_groups)
    return (starts[:, None] + indices).reshape(-1)


def take_in_groups(
    leaf: Any, indices: Int[Array, "groups selected"], axis: int = 0, block: int = 1
) -> Array:
    """The selected rows of an array that keeps `block` entries a row along `axis`."""
    leaf = jnp.asarray(leaf)
    before, after = leaf.shape[:axis], leaf.shape[axis + 1 :]
    num_groups = len(indices)

    def take(rows, indices):
        return rows.at[(slice(None),) * axis + (indices,)].get(mode="promise_in_bounds")

    if num_groups == 1:
        taken = take(leaf.reshape(*before, -1, block, *after), indices[0])
    else:
        groups = leaf.reshape(*before, num_groups, -1, block, *after)
        taken = jax.vmap(take, in_axes=(axis, 0), out_axes=axis)(groups, indices)
    return taken.reshape(*before, -1, *after)


def split_over(sharding: NamedSharding | None, tree: PyTree) -> PyTree:
    """The same arrays with their leading axis split as `sharding` says, if any."""
    if sharding is None:
        return tree
    rows = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    return lax.with_sharding_constraint(tree, rows)
