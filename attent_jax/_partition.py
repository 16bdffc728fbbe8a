"""The largest `num` of many keys, without sorting them.

A selection needs a partition, not an order. A partition costs a few passes over the
keys, a sort costs log N passes. The threshold between the two parts is found on the
bits of the keys, which XLA counts quickly on every device. Where the keys are split
over devices, each device counts its own keys, and a pass moves one number.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

_SAMPLE_SIZE = 4096

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
        counts = _cumulative_count(tied)
        if axis_names:
            of_shards = lax.all_gather(counts[-1], axis_names)
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
    marked = _cumulative_count(mask)
    position = jnp.where(mask, marked - 1, marked[-1] + index - marked)
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
    return _join(orders, lax.all_gather(marked[-1], axis_names))


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


def _cumulative_count(mask: Bool[Array, "pool"]) -> Int[Array, "pool"]:
    # On CPU twice as fast as jnp.cumsum, elsewhere the same.
    return lax.associative_scan(jnp.add, mask.astype(jnp.int32))


class _Bracket(NamedTuple):
    """low <= threshold < high, with the number of keys at or above each end."""

    low: UInt[Array, ""]
    high: UInt[Array, ""]
    count_low: Int[Array, ""]
    count_high: Int[Array, ""]
    halve: Bool[Array, ""]
    """Whether to halve the width next, as interpolation came hardly closer."""

    def distance(self, num: Int[Array, ""]) -> Int[Array, ""]:
        """How many keys the nearer end is off."""
        return jnp.minimum(self.count_low - num, num - self.count_high)


def _threshold(
    num: Int[Array, ""], keys: UInt[Array, "pool"], axis_names: AxisNames
) -> tuple[UInt[Array, ""], Int[Array, ""]]:
    """A threshold and the number of keys at or above it.

    Either that number is `num`, or the threshold is the largest with at least `num`.
    Each pass counts the keys above a pivot. The first two pivots are quantiles of a
    sample, so that few keys are left between them; then pivots are interpolated
    between the counts, or halve the bracket where that came hardly closer.
    """
    size = lax.psum(keys.size, axis_names)

    def shrink(bracket: _Bracket, pivot: UInt[Array, ""]) -> _Bracket:
        pivot = jnp.clip(pivot, bracket.low + 1, bracket.high)
        count = lax.psum(jnp.sum(keys >= pivot, dtype=num.dtype), axis_names)
        enough = count >= num
        closer = _Bracket(
            low=jnp.where(enough, pivot, bracket.low),
            high=jnp.where(enough, bracket.high, pivot),
            count_low=jnp.where(enough, count, bracket.count_low),
            count_high=jnp.where(enough, bracket.count_high, count),
            halve=jnp.array(False),
        )
        is_slow = closer.distance(num) > bracket.distance(num) // 2
        return closer._replace(halve=is_slow & ~bracket.halve)

    def is_open(bracket: _Bracket) -> Bool[Array, ""]:
        return (bracket.high - bracket.low > 1) & (bracket.count_low != num)

    def step(bracket: _Bracket) -> _Bracket:
        low, high, count_low, count_high, halve = bracket
        width = high - low
        share = (count_low - num) / (count_low - count_high)
        inner = width.astype(share.dtype) * share * (1 - 1e-6)
        inner = inner.astype(width.dtype)
        return shrink(bracket, low + jnp.where(halve, width // 2, inner))

    bracket = _Bracket(
        low=jnp.zeros((), keys.dtype),
        high=jnp.array(jnp.iinfo(keys.dtype).max, keys.dtype),
        count_low=jnp.array(size, num.dtype),
        count_high=jnp.zeros((), num.dtype),
        halve=jnp.array(False),
    )
    sample = keys[:: max(1, size // _SAMPLE_SIZE)]
    sample = jnp.sort(lax.all_gather(sample, axis_names, tiled=True))
    middle = sample.size * (1 - num / size)
    for margin in (-1.0, 1.0):  # two standard deviations of a sample quantile
        place = jnp.clip(middle + margin * sample.size**0.5, 0, sample.size - 1)
        bracket = shrink(bracket, sample[place.astype(jnp.int32)])
    bracket = bracket._replace(halve=jnp.zeros_like(bracket.halve))
    bracket = lax.while_loop(is_open, step, bracket)
    return bracket.low, bracket.count_low
