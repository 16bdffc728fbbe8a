"""What all selectors share: checks of their arguments, and the Selection they build."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt

from attent_jax._checks import MAX_COUNT, check_count, pool_scores
from attent_jax._partition import AxisNames, largest, partition
from attent_jax.typing import Scores, Selection


def check_pool(
    scores: Any, num_selected: Any, *, name: str = "scores"
) -> tuple[Scores, int | Int[Array, ""]]:
    """The scores as a jax array, and the count: an int, or an int32 if traced.

    A traced count is clamped into [0, pool].
    """
    scores = pool_scores(scores, name)
    if scores.ndim != 1:
        raise ValueError(
            f"{name} must have shape [pool], got shape {scores.shape}: pass one "
            f"score per example."
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {scores.dtype}: convert them with "
            f"jnp.asarray({name}, jnp.float32)."
        )
    if not scores.size:
        raise ValueError(f"{name} is empty: the pool needs at least one example.")
    if scores.size > MAX_COUNT:
        raise ValueError(
            f"{name} has {scores.size} examples, but a pool has at most "
            f"{MAX_COUNT}, as ids are int32: select from parts of the pool."
        )
    if not isinstance(num_selected, Tracer):
        num_selected = check_count("num_selected", num_selected)
        if num_selected > scores.size:
            raise ValueError(
                f"num_selected must be at most the pool's {scores.size} examples, got "
                f"{num_selected}: lower it, or enlarge the pool."
            )
        return scores, num_selected
    if not jnp.issubdtype(num_selected.dtype, jnp.integer):
        raise TypeError(
            f"num_selected must be an integer, got a traced {num_selected.dtype}: "
            f"convert it with .astype(jnp.int32)."
        )
    if num_selected.shape:
        raise ValueError(
            f"num_selected must be one integer, got shape {num_selected.shape}: pass "
            f"one of them, or vmap over them."
        )
    return scores, jnp.clip(num_selected, 0, scores.size).astype(jnp.int32)


def check_mesh(mesh: Any) -> None:
    """Refuse anything but a mesh or None."""
    if not isinstance(mesh, Mesh | None):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}: make one "
            f"with attent_jax.distributed.make_mesh()."
        )


def divide(
    values: Shaped[Array, "pool"], mesh: Mesh | None
) -> Shaped[Array, "padded_pool"]:
    """Values padded with zeros to a multiple of the devices, and split over them."""
    if mesh is None:
        return values
    padded = jnp.pad(values, (0, -values.size % mesh.size))
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return lax.with_sharding_constraint(padded, split)


def replicate(
    values: Shaped[Array, "padded_pool"], mesh: Mesh | None
) -> Shaped[Array, "padded_pool"]:
    """Values that every device of the mesh holds whole."""
    if mesh is None:
        return values
    return lax.with_sharding_constraint(values, NamedSharding(mesh, PartitionSpec()))


def select_largest(
    pool_size: int,
    num_selected: int | Int[Array, ""],
    *keys: UInt[Array, "padded_pool"],
    mesh: Mesh | None = None,
) -> Selection:
    """The Selection of the largest keys; ties as in `largest`.

    With a mesh the keys are split over it, as `divide` does.
    """
    num_selected = jnp.asarray(num_selected, jnp.int32)
    return select_marked(
        largest, pool_size, num_selected, num_selected, *keys, mesh=mesh
    )


def select_marked(
    mark: Callable[..., Bool[Array, "shard"]],
    pool_size: int,
    num_selected: Int[Array, ""],
    counts: PyTree[Int[Array, ""]],
    *keys: UInt[Array, "padded_pool"],
    mesh: Mesh | None = None,
) -> Selection:
    """The Selection of what `mark(counts, *keys, axis_names=...)` marks.

    It marks exactly num_selected, and no example whose keys are 0 while there are
    others. With a mesh the keys are split over it, as `divide` does, and `mark` is
    called on each shard.
    """

    def marked_first(counts, *keys, axis_names: AxisNames = ()):
        mask = mark(counts, *keys, axis_names=axis_names)
        return partition(mask, axis_names=axis_names)

    if mesh is None:
        indices = marked_first(counts, *keys)
    else:
        if keys[0].size > pool_size:
            # With the smallest keys and the highest indices, padding is never taken.
            is_example = lax.iota(jnp.int32, keys[0].size) < pool_size
            keys = tuple(jnp.where(is_example, key, key.dtype.type(0)) for key in keys)
        split = PartitionSpec(mesh.axis_names)
        indices = jax.shard_map(
            partial(marked_first, axis_names=mesh.axis_names),
            mesh=mesh,
            in_specs=(PartitionSpec(), *[split] * len(keys)),
            out_specs=PartitionSpec(),
            check_vma=False,  # gathered values agree but count as varying
        )(counts, *keys)[:pool_size]
    return Selection(
        indices=indices,
        weights=_first_ones(pool_size, num_selected),
        num_selected=num_selected,
    )


def _first_ones(size: int, num: Int[Array, ""]) -> Float[Array, "size"]:
    """`num` ones, then zeros; copied rather than computed by every device of a mesh."""
    ones_then_zeros = jnp.pad(jnp.ones(size, jnp.float32), (0, size))
    return lax.dynamic_slice(ones_then_zeros, (size - num,), (size,))
