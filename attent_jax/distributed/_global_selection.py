"""Selection from scores that lie on many devices."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from attent_jax._partition import LargestFn, largest
from attent_jax.distributed._mesh import replicated
from attent_jax.selectors._gumbel_top_k import build_gumbel_top_k
from attent_jax.selectors._selection import check_scores
from attent_jax.selectors._top_k import build_top_k
from attent_jax.typing import SelectFn


def global_top_k(mesh: Mesh, *, nan_first: bool = False) -> SelectFn:
    """`selectors.top_k` over a mesh: the same selection, no device sorts it alone.

    The scores stay where they are: each device counts its own, and what travels are a
    few dozen numbers and, at the end, one byte per example. For pools of millions;
    replicated scores of a smaller one do as well with `selectors.top_k`.

    Args:
      mesh: from `make_mesh`.
      nan_first: as in `selectors.top_k`.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`, replicated over the mesh; the
      scores may be split over it or not, the pool of any size.

    Raises:
      ValueError, TypeError: from the selector as in `selectors.top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> mesh = attent_jax.distributed.make_mesh()
      >>> select = attent_jax.distributed.global_top_k(mesh)
      >>> select(jax.random.key(0), jnp.array([0.1, 2.0, 0.5]), 2).indices.tolist()
      [1, 2, 0]
    """
    return _compiled(build_top_k(_largest_over(mesh), nan_first=nan_first))


def global_gumbel_top_k(mesh: Mesh, temperature: float = 1.0) -> SelectFn:
    """`selectors.gumbel_top_k` over a mesh: the same draw for the same key.

    What travels is as in `global_top_k`; each device draws the noise of its own scores.

    Args:
      mesh: from `make_mesh`.
      temperature: as in `selectors.gumbel_top_k`.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`, replicated over the mesh; the
      scores may be split over it or not, the pool of any size.

    Raises:
      ValueError, TypeError: as in `selectors.gumbel_top_k`, also from the selector.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> mesh = attent_jax.distributed.make_mesh()
      >>> select = attent_jax.distributed.global_gumbel_top_k(mesh, temperature=0.5)
      >>> scores = jnp.array([0.0, 9.0, 0.0, 9.0])
      >>> select(jax.random.key(0), scores, 2).indices.tolist()
      [1, 3, 0, 2]
    """
    return _compiled(build_gumbel_top_k(_largest_over(mesh), temperature))


def _largest_over(mesh: Mesh) -> LargestFn:
    split = PartitionSpec(mesh.axis_names)

    def of_shard(num, *keys):
        return largest(num, *keys, axis_names=mesh.axis_names)

    def of_all(num, *keys):
        size = keys[0].size
        # Padding has the smallest key and comes last, so that it loses every tie.
        keys = [jnp.pad(key, (0, -size % mesh.size)) for key in keys]
        mask = jax.shard_map(
            of_shard,
            mesh=mesh,
            in_specs=(PartitionSpec(), *[split] * len(keys)),
            out_specs=split,
            check_vma=False,  # pivots from the gathered sample agree, but look varying
        )(num, *keys)
        return lax.with_sharding_constraint(mask, replicated(mesh))[:size]

    return of_all


def _compiled(select_fn: SelectFn) -> SelectFn:
    compiled = jax.jit(select_fn)

    def select(rng, scores, num_selected):
        # Checked here too, while a Python count still is one.
        return compiled(rng, scores, check_scores(scores, num_selected))

    return select
