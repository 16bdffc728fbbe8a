"""A uniform share in any selection."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from attent_jax._checks import check_number, check_rng, check_select_fn
from attent_jax._factories import described
from attent_jax._floor_product import floor_product
from attent_jax.selectors._selection import (
    check_mesh,
    check_pool,
    divide,
    replicate,
    select_largest,
)
from attent_jax.selectors._uniform import uniform_keys
from attent_jax.typing import SelectFn


@described
def mix_uniform(
    select_fn: SelectFn, share: float, *, mesh: Mesh | None = None
) -> SelectFn:
    """Let `select_fn` choose 1 − share of the selection, and draw the rest uniformly.

    The uniform part, floor(share · num_selected) examples, is drawn from those that
    `select_fn` left, with weight 1; `select_fn`'s keep their weights. Examples whose
    score is NaN are drawn last.

    Args:
      select_fn: any selector. Where num_selected is traced, it is called with a count
        that may be 0.
      share: the uniform share, in [0, 1].
      mesh: as in `top_k`, for the uniform part; give `select_fn` the same.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`, as `top_k`.

    Raises:
      TypeError: for a select_fn that is no selector, e.g. `top_k` without its
        parentheses, or a share that is no number; from the selector as in
        `gumbel_top_k`.
      ValueError: for a share outside [0, 1]; from the selector as in `top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.mix_uniform(attent_jax.selectors.top_k(), 0.5)
      >>> selection = select(jax.random.key(0), jnp.arange(100.0), 4)
      >>> {98, 99} <= set(selection.indices[:4].tolist())
      True
    """
    check_select_fn("select_fn", select_fn)
    share = check_number("share", share, low=0.0, high=1.0)
    check_mesh(mesh)

    def select(rng, scores, num_selected):
        """`(rng, scores[pool], num_selected) -> Selection` with a uniform share."""
        check_rng("rng", rng)
        scores, num_selected = check_pool(scores, num_selected)
        rng_chosen, rng_uniform = jax.random.split(rng)
        fill = partial(_fill, mesh=mesh)
        if isinstance(num_selected, int):
            num_chosen = num_selected - math.floor(share * num_selected)
        else:
            num_chosen = num_selected - floor_product(share, num_selected)
        if isinstance(num_chosen, int) and not num_chosen:
            return fill(rng_uniform, scores, num_selected, None, num_chosen)
        chosen = select_fn(rng_chosen, scores, num_chosen)
        return fill(rng_uniform, scores, num_selected, chosen, num_chosen)

    return select


@partial(jax.jit, static_argnames="mesh")
def _fill(rng, scores, num_selected, chosen, num_chosen, *, mesh):
    """`num_chosen` examples of a selection, or None, and the rest drawn uniformly."""
    bits = divide(jax.random.bits(rng, scores.shape, jnp.uint32), mesh)
    keys = uniform_keys(bits, ~jnp.isnan(divide(scores, mesh)))
    if chosen is None:
        return select_largest(scores.size, num_selected, keys, mesh=mesh)
    place = lax.iota(jnp.int32, scores.size)
    rank = (
        jnp.zeros_like(place)
        .at[chosen.indices]
        .set(
            place,
            unique_indices=True,
            mode="promise_in_bounds",
            wrap_negative_indices=False,
        )
    )
    rank = divide(replicate(rank, mesh), mesh)
    is_chosen = rank < num_chosen
    keys = jnp.where(is_chosen, jnp.uint32(1 << 31), keys)
    selection = select_largest(scores.size, num_selected, keys, mesh=mesh)
    indices = divide(selection.indices, mesh)
    rank = _take(replicate(rank, mesh), indices)
    weights = _take(replicate(chosen.weights, mesh), rank)
    weights = jnp.where(rank < num_chosen, weights, 1.0)
    weights = replicate(weights * divide(selection.weights, mesh), mesh)
    return selection._replace(weights=weights[: scores.size])


def _take(values, indices):
    return values.at[indices].get(mode="promise_in_bounds", wrap_negative_indices=False)
