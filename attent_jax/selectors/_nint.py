"""The mixture of NTK-guided implicit neural teaching."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt

from attent_jax._checks import check_count, check_number, check_rng
from attent_jax._factories import described
from attent_jax._floor_product import floor_product
from attent_jax._partition import AxisNames, largest, sortable
from attent_jax.selectors._selection import (
    check_mesh,
    check_pool,
    divide,
    select_marked,
)
from attent_jax.selectors._uniform import uniform_keys
from attent_jax.typing import Selection


class NintScores(NamedTuple):
    """The two scores that `nint` chooses by."""

    ntk: Float[Array | np.ndarray, "pool"]
    """`[pool]` how far a step moves each example's outputs: `scores.ntk_guided`."""
    error: Float[Array | np.ndarray, "pool"]
    """`[pool]` how wrong each example is, e.g. `scores.discrepancy`."""


class _Counts(NamedTuple):
    ntk: Int[Array, ""]
    guided: Int[Array, ""]
    """By NTK score or by error."""
    total: Int[Array, ""]


@described
def nint(
    random_share: float = 0.7, decay: float = 10.0, *, mesh: Mesh | None = None
) -> Callable[[jax.Array, NintScores, Any, Any], Selection]:
    """Mix the largest NTK scores, the largest errors, and a uniform draw.

    Of num_selected examples, floor(random_share · num_selected) are random. Of the
    others, those with the largest NTK scores are taken first: a share exp(−t / decay)
    at refresh t, rounded down, so all of them at refresh 0. Then come the largest
    errors of the examples left, and the random part is drawn uniformly from the rest.
    Weights are 1.

    Examples with a NaN in either score come last. Of equal scores those with lower
    indices are taken.

    Args:
      random_share: in (0, 1].
      decay: > 0, in refreshes. The NTK scores give way to the errors as the kernel
        settles.
      mesh: as in `top_k`.

    Returns:
      `(rng, scores, num_selected, refresh) -> Selection`. `scores` is `NintScores`.
      `refresh` is t, how often the scores were computed before. It and `num_selected`
      may be traced; `num_selected` is then clamped into [0, pool], `refresh` to at
      least 0. With one pair of scores, `lambda rng, scores, num_selected: ...` around
      it is a selector as all others.

    Raises:
      TypeError: for arguments that are no numbers; from the selector, for scores that
        are no `NintScores`, and as in `gumbel_top_k`.
      ValueError: for a random_share outside (0, 1] or a decay that is not positive;
        from the selector, for scores of different sizes, a negative refresh, and as
        in `top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.nint(random_share=0.5)
      >>> scores = attent_jax.selectors.NintScores(
      ...     ntk=jnp.arange(100.0), error=-jnp.arange(100.0))
      >>> first, later = (select(jax.random.key(0), scores, 4, t) for t in (0, 100))
      >>> {98, 99} <= set(first.indices[:4].tolist())
      True
      >>> {0, 1} <= set(later.indices[:4].tolist())
      True

    Reference: NTK-Guided Implicit Neural Teaching (arXiv 2511.15487), section 4.
    """
    random_share = check_number(
        "random_share", random_share, low=0.0, high=1.0, low_excluded=True
    )
    decay = check_number("decay", decay, low=0.0, low_excluded=True)
    check_mesh(mesh)

    def select(rng, scores, num_selected, refresh):
        """`(rng, scores, num_selected, refresh) -> Selection`, a mixture."""
        check_rng("rng", rng)
        if not isinstance(scores, NintScores):
            raise TypeError(
                f"scores must be NintScores, got {type(scores).__name__}: pass "
                f"attent_jax.selectors.NintScores(ntk, error)."
            )
        ntk, num_selected = check_pool(scores.ntk, num_selected, name="scores.ntk")
        error, _ = check_pool(scores.error, num_selected, name="scores.error")
        if ntk.shape != error.shape:
            raise ValueError(
                f"scores.ntk has {ntk.size} examples but scores.error {error.size}: "
                f"pass both of the same pool."
            )
        if not isinstance(refresh, Tracer):
            refresh = check_count("refresh", refresh, minimum=0)
        if isinstance(num_selected, int):
            num_random = math.floor(random_share * num_selected)
        else:
            num_random = floor_product(random_share, num_selected)
        return _select(
            *(rng, ntk, error, num_selected, num_random, refresh),
            decay=decay,
            mesh=mesh,
        )

    return select


@partial(jax.jit, static_argnames=("decay", "mesh"))
def _select(rng, ntk, error, num_selected, num_random, refresh, *, decay, mesh):
    pool_size = ntk.size
    num_selected = jnp.asarray(num_selected, jnp.int32)
    num_guided = num_selected - jnp.asarray(num_random, jnp.int32)
    refresh = jnp.maximum(jnp.asarray(refresh, jnp.float32), 0)
    # In float32 a smaller decay would be 0.
    ntk_share = jnp.exp(-refresh / max(decay, 1e-30))
    num_ntk = jnp.floor(num_guided.astype(jnp.float32) * ntk_share).astype(jnp.int32)
    bits = divide(jax.random.bits(rng, (pool_size,), jnp.uint32), mesh)
    ntk, error = divide(ntk, mesh), divide(error, mesh)
    is_scored = ~(jnp.isnan(ntk) | jnp.isnan(error))
    return select_marked(
        _mark,
        pool_size,
        num_selected,
        # float32 rounds counts beyond 2²⁴, up as well
        _Counts(jnp.minimum(num_ntk, num_guided), num_guided, num_selected),
        _or_zero(sortable(ntk), is_scored),
        _or_zero(sortable(error), is_scored),
        uniform_keys(bits, is_scored),
        mesh=mesh,
    )


def _or_zero(
    keys: UInt[Array, "pool"], is_kept: Bool[Array, "pool"]
) -> UInt[Array, "pool"]:
    return jnp.where(is_kept, keys, jnp.zeros_like(keys))


def _mark(
    counts: _Counts,
    ntk: UInt[Array, "shard"],
    error: UInt[Array, "shard"],
    bits: UInt[Array, "shard"],
    *,
    axis_names: AxisNames,
) -> Bool[Array, "shard"]:
    """The largest NTK keys, then the largest errors of the others, then a draw."""
    by_ntk = largest(counts.ntk, ntk, axis_names=axis_names)
    # 0 for what is taken, as for what has no score; where nothing else is left, the
    # draw below has the rest of this part too.
    left = _or_zero(error, ~by_ntk)
    by_error = largest(counts.guided - counts.ntk, left, axis_names=axis_names)
    drawn = jnp.where(by_ntk | by_error, jnp.uint32(1 << 31), bits)
    return largest(counts.total, drawn, axis_names=axis_names)
