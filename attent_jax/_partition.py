"""The largest `num` of many keys, without sorting them.

A selection needs a partition, not an order. A partition costs a few passes over the
keys, a sort costs log N passes. The threshold between the two parts is found on the
bits of the keys, which XLA counts quickly on every device. Where the keys are split
over devices, each device counts its own keys, and a pass moves a few numbers.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

_SAMPLE_SIZE = 4096
# The pivots of the first pass and of the others, in standard deviations.
_DEVIATIONS = np.array([-2.0, -0.5, 0.0, 0.5, 2.0], np.float32)
_SPREAD = np.array([-1.5, -0.5, 0.5, 1.5], np.float32)

AxisNames = tuple[str, ...]


def sortable(
    values: Float[Array, "pool"], *, nan_first: bool = False
) -> UInt[Array, "pool"]:
    """Unsigned keys in the values' order; equal values share a key (−0 = 0).

    NaN gets the smallest key, or with `nan_first` the largest; no key is the largest
    of its type.
    """
    if values.dtype.itemsize < 4:
        values = values.astype(jnp.float32)
    unsigned = jnp.uint32 if values.dtype.itemsize == 4 else jnp.uint64
    bits = lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), unsigned)
    top = jnp.array(1 << (values.dtype.itemsize * 8 - 1), unsigned)
    keys = jnp.where(bits >= top, ~bits, bits | top)
    nan_key = jnp.iinfo(unsigned).max - 1 if nan_first else 0
    return jnp.where(jnp.isnan(values), jnp.array(nan_key, unsigned), keys)


@partial(jax.jit, static_argnames="axis_names")
def largest(
    num: Int[Array, ""],
    keys: UInt[Array, "pool"],
    *tie_breakers: UInt[Array, "pool"],
    axis_names: AxisNames = (),
) -> Bool[Array, "pool"]:
    """Mask of exactly `num` keys, none smaller than a key left out.

    Of equal keys those with the larger first tie-breaker are taken, then those with
    the larger second one, and so on, then those with the lower index.
    Under `shard_map` the keys and the mask are one shard's of those over `axis_names`.
    """
    threshold, count = _threshold(num, keys, axis_names)

    def break_ties():
        above, tied = keys > threshold, keys == threshold
        room = num - lax.psum(jnp.sum(above, dtype=num.dtype), axis_names)
        if tie_breakers:
            first, *others = tie_breakers
            of_tied = jnp.where(tied, jnp.maximum(first, 1), 0)
            return above | largest(room, of_tied, *others, axis_names=axis_names)
        counts, num_tied = _cumulative_count(tied)
        if axis_names:
            of_shards = lax.all_gather(num_tied, axis_names)
            is_before = lax.iota(jnp.int32, of_shards.size) < lax.axis_index(axis_names)
            room -= jnp.sum(jnp.where(is_before, of_shards, 0))
        return above | (tied & (counts <= room))

    return lax.cond(count == num, lambda: keys >= threshold, break_ties)


@partial(jax.jit, static_argnames="axis_names")
def partition(
    mask: Bool[Array, "shard"], *, axis_names: AxisNames = ()
) -> Int[Array, "pool"]:
    """The permutation with the marked indices first, each part in index order.

    Under `shard_map` the mask is one shard's of that over `axis_names`. Each device
    partitions its own shard, and copies the parts of all shards into the permutation.
    """
    index = lax.iota(jnp.int32, mask.size)
    marked, num_marked = _cumulative_count(mask)
    position = jnp.where(mask, marked - 1, num_marked + index - marked)
    if axis_names:
        index = index + lax.axis_index(axis_names) * mask.size
    order = (
        jnp.zeros_like(index)
        .at[position]
        .set(index, unique_indices=True, mode="promise_in_bounds")
    )
    if not axis_names:
        return order
    orders = lax.all_gather(order, axis_names)
    return _join(orders, lax.all_gather(num_marked, axis_names))


def _join(
    orders: Int[Array, "shards shard"], num_marked: Int[Array, "shards"]
) -> Int[Array, "pool"]:
    """The shards' marked indices, then their unmarked ones."""
    num_shards, size = orders.shape
    before = jnp.cumsum(num_marked) - num_marked
    total = jnp.sum(num_marked)

    # A shard's copy is longer than its part; the next copy overwrites the excess.
    def copy_marked(shard, joined):
        return lax.dynamic_update_slice(joined, orders[shard], (before[shard],))

    def copy_unmarked(shard, joined):
        unmarked_first = jnp.roll(orders[shard], -num_marked[shard])
        start = total + shard * size - before[shard]
        return lax.dynamic_update_slice(joined, unmarked_first, (start,))

    joined = jnp.zeros((num_shards + 1) * size, orders.dtype)
    joined = lax.fori_loop(0, num_shards, copy_marked, joined)
    joined = lax.fori_loop(0, num_shards, copy_unmarked, joined)
    return joined[: num_shards * size]


def _cumulative_count(
    mask: Bool[Array, "pool"],
) -> tuple[Int[Array, "pool"], Int[Array, ""]]:
    """`jnp.cumsum(mask)` and its last entry, by words of 32 bits; fast on CPU."""
    bit = lax.iota(jnp.uint32, 32)[None]
    rows = jnp.pad(mask, (0, -mask.size % 32)).reshape(-1, 32)
    words = jnp.sum(rows.astype(jnp.uint32) << bit, axis=1, dtype=jnp.uint32)
    counts = lax.population_count(words).astype(jnp.int32)
    up_to_word = lax.associative_scan(jnp.add, counts)
    before = up_to_word - counts
    up_to_bit = (jnp.uint32(2) << bit) - jnp.uint32(1)
    within = lax.population_count(words[:, None] & up_to_bit).astype(jnp.int32)
    return (before[:, None] + within).reshape(-1)[: mask.size], up_to_word[-1]


class _Bracket(NamedTuple):
    """low <= threshold < high, with the number of keys at or above each end."""

    low: UInt[Array, ""]
    high: UInt[Array, ""]
    count_low: Int[Array, ""]
    count_high: Int[Array, ""]


def _threshold(
    num: Int[Array, ""], keys: UInt[Array, "pool"], axis_names: AxisNames
) -> tuple[UInt[Array, ""], Int[Array, ""]]:
    """A threshold and the number of keys at or above it.

    Either that number is `num`, or the threshold is the largest with at least `num`.
    Each pass counts the keys above a few pivots. The first pivots are quantiles of a
    sample, so that few keys are left between two of them. The next are interpolated
    between the counts, as far apart as the interpolation errs. Halving the bracket
    too bounds the number of passes.
    """
    size = lax.psum(keys.size, axis_names)

    def shrink(bracket: _Bracket, pivots: UInt[Array, "pivots"]) -> _Bracket:
        pivots = jnp.clip(pivots, bracket.low + 1, bracket.high)
        counts = lax.psum(_counts_above(pivots, keys), axis_names)
        enough = counts >= num
        return _Bracket(
            low=jnp.max(jnp.where(enough, pivots, bracket.low)),
            high=jnp.min(jnp.where(enough, bracket.high, pivots)),
            count_low=jnp.min(jnp.where(enough, counts, bracket.count_low)),
            count_high=jnp.max(jnp.where(enough, bracket.count_high, counts)),
        )

    def is_open(bracket: _Bracket) -> Bool[Array, ""]:
        return (bracket.high - bracket.low > 1) & (bracket.count_low != num)

    def step(bracket: _Bracket) -> _Bracket:
        low, high, count_low, count_high = bracket
        width = high - low
        num_left = (count_low - count_high).astype(jnp.float32)
        share = (count_low - num).astype(jnp.float32) / num_left
        shares = share + _SPREAD * 0.5 / jnp.sqrt(num_left)
        shares = jnp.clip(shares, 0, 1 - 1e-6)
        inner = (width.astype(jnp.float32) * shares).astype(width.dtype)
        return shrink(bracket, low + jnp.append(inner, width // 2))

    bracket = _Bracket(
        low=jnp.zeros((), keys.dtype),
        high=jnp.array(jnp.iinfo(keys.dtype).max, keys.dtype),
        count_low=jnp.array(size, num.dtype),
        count_high=jnp.zeros((), num.dtype),
    )
    sample = keys[:: max(1, size // _SAMPLE_SIZE)]
    sample = jnp.sort(lax.all_gather(sample, axis_names, tiled=True))
    # A share of n examples deviates by at most 0.5 / sqrt(n), as do sampled quantiles.
    middle = (size - num).astype(jnp.float32) * (sample.size / size)
    places = jnp.clip(middle + _DEVIATIONS * (sample.size**0.5 / 2), 0, sample.size - 1)
    bracket = shrink(bracket, sample[places.astype(jnp.int32)])
    bracket = lax.while_loop(is_open, step, bracket)
    return bracket.low, bracket.count_low


def _counts_above(
    pivots: UInt[Array, "pivots"], keys: UInt[Array, "pool"]
) -> Int[Array, "pivots"]:
    """How many keys are at or above each pivot, in one pass over the keys."""
    above = [(keys >= pivot).astype(jnp.int32) for pivot in pivots]

    def add(sums, terms):
        return [total + term for total, term in zip(sums, terms, strict=True)]

    # As one reduction of several operands; XLA's CPU compiler reads the keys for each
    # of several reductions.
    return jnp.stack(lax.reduce(above, [jnp.int32(0)] * len(above), add, (0,)))
