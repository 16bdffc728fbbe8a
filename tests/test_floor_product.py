"""The floor of a share of a count, against Python's."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attent_jax._floor_product import floor_product

# Optimizations may change what exact arithmetic relies on.
pytestmark = pytest.mark.usefixtures("optimized")

MAX_COUNT = 2**31 - 1
counts = st.integers(0, MAX_COUNT) | st.sampled_from([2**24 + 3, 2**30, MAX_COUNT])
shares = st.floats(0, 1) | st.builds(
    lambda part, whole: min(part, whole) / whole,
    st.integers(0, 10_000),
    st.integers(1, 10_000),
)


def floors(share: float, values: list[int]) -> list[int]:
    product = jax.vmap(lambda count: floor_product(share, count))
    return product(jnp.array(values, jnp.int32)).tolist()


@given(shares, st.lists(counts, min_size=4, max_size=4), st.integers(1, 200_000))
@example(1.0, [2**24 + 3, MAX_COUNT, 0, 1], 1)
@example(1 / 49, [49, 98, 48, 2**24 + 3], 1)  # 1 / 49 * 49 is below 1 in Python too
@example(5e-324, [MAX_COUNT, 1, 0, 2], 1)
def test_floor_is_pythons(share, values, multiple):
    # counts at which the product is an integer, but for rounding
    whole = Fraction(share).limit_denominator(10_000).denominator
    values = [*values, whole * multiple]
    # in float32: 16_777_220 for all of 16_777_219
    assert floors(share, values) == [math.floor(share * count) for count in values]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 2 / 3, 1 / 49, 0.999999999])
def test_floor_is_pythons_for_every_small_count(share):
    values = np.arange(5000).tolist()
    assert floors(share, values) == [math.floor(share * count) for count in values]


def test_floor_does_not_change_with_64_bits():
    with jax.enable_x64(True):
        count = jnp.array(2**24 + 3, jnp.int64)
        assert floor_product(0.7, count) == math.floor(0.7 * (2**24 + 3))
