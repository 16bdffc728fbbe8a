"""top_k against numpy's stable sort, wherever a partition could go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_jax.selectors import top_k

RNG = jax.random.key(0)
POOL_SIZE = 9

# around 4096, the selector's internal sample, and far above it
SIZES = [1, 2, 100, 4095, 4096, 4097, 100_003]
PATTERNS = {
    "distinct": lambda draw, size: draw.permutation(size),
    "heavy tail": lambda draw, size: np.exp(20 * draw.normal(size=size)),
    "many ties": lambda draw, size: draw.integers(0, 3, size),
    "all tied": lambda draw, size: np.full(size, 0.5),
    "one above the rest": lambda draw, size: np.where(np.arange(size) == 0, 1e30, 1.0),
    "neighbouring floats": lambda draw, size: (
        1 + draw.integers(0, 9, size) * np.finfo(np.float32).eps
    ),
    "both signs": lambda draw, size: draw.normal(size=size),
    "not finite": lambda draw, size: draw.choice([np.inf, -np.inf, np.nan, 1.0], size),
    "zeros and denormals": lambda draw, size: draw.choice([0.0, -0.0, 1e-40], size),
    "only NaN": lambda draw, size: np.full(size, np.nan),
    "ascending": lambda draw, size: np.arange(size),
    "period of the sample": lambda draw, size: np.arange(size) % 24 == 0,
}


def ranking(scores: np.ndarray, nan_first: bool = False) -> np.ndarray:
    """Ids by score, highest first, ties by lower id; NaN at one end."""
    scores = np.asarray(scores, np.float64)
    # XLA's float32 comparisons flush denormals on CPU: they tie with zero
    scores = np.where(np.abs(scores) < np.finfo(np.float32).tiny, 0.0, scores)
    is_nan = np.isnan(scores)
    is_last = ~is_nan if nan_first else is_nan
    return np.lexsort((np.arange(scores.size), -np.where(is_nan, 0, scores), is_last))


def selected(selection) -> list[int]:
    return selection.indices[: int(selection.num_selected)].tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_set_is_that_of_a_stable_sort(pattern, size):
    scores = pattern(np.random.default_rng(size), size).astype(np.float32)
    counts = {1, 2, size // 10, size // 3, size // 2, size - 1, size}
    for nan_first in (False, True):
        best_first, select = ranking(scores, nan_first), top_k(nan_first=nan_first)
        for num_selected in sorted(counts & set(range(1, size + 1))):
            indices, _, count = select(RNG, jnp.asarray(scores), num_selected)
            assert count == num_selected
            # selected examples come in id order
            expected = np.sort(best_first[:num_selected])
            np.testing.assert_array_equal(indices[:num_selected], expected)


@given(
    st.lists(
        st.floats(width=16) | st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan]),
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
    ),
    st.integers(1, POOL_SIZE),
    st.sampled_from([jnp.float32, jnp.float16, jnp.bfloat16]),
)
def test_every_float_type_sorts_as_itself(scores, num_selected, dtype):
    scores = jnp.array(scores, dtype)
    best_first = ranking(np.asarray(scores, np.float32)).tolist()
    selection = top_k()(RNG, scores, num_selected)
    assert selected(selection) == sorted(best_first[:num_selected])


def test_float64_scores_are_not_rounded_to_float32():
    with jax.enable_x64(True):
        scores = jnp.array([1.0, 1.0 + 1e-15, -1e300, 1e300, 1.0 + 2e-15])
        assert scores.dtype == jnp.float64
        # in float32 the three ones tie: [0, 1, 3]
        assert selected(top_k()(RNG, scores, 3)) == [1, 3, 4]
        assert selected(top_k()(RNG, scores, 4)) == [0, 1, 3, 4]
        assert selected(top_k(nan_first=True)(RNG, scores.at[2].set(jnp.nan), 1)) == [2]


def test_nan_comes_after_minus_infinity_or_first_of_all():
    scores = jnp.array([jnp.nan, -jnp.inf, 1.0, jnp.inf])
    # a plain sort puts NaN on top: [0, 3]
    assert selected(top_k()(RNG, scores, 2)) == [2, 3]
    assert selected(top_k()(RNG, scores, 3)) == [1, 2, 3]
    assert selected(top_k(nan_first=True)(RNG, scores, 1)) == [0]
    assert selected(top_k(nan_first=True)(RNG, scores, 2)) == [0, 3]


distinct_scores = st.lists(
    st.integers(-(2**20), 2**20), min_size=POOL_SIZE, max_size=POOL_SIZE, unique=True
).map(lambda values: np.array(values, np.float32))


@given(distinct_scores, st.permutations(range(POOL_SIZE)), st.integers(1, POOL_SIZE))
def test_order_of_the_examples_does_not_matter(scores, order, num_selected):
    order = np.array(order)
    shuffled = selected(top_k()(RNG, jnp.asarray(scores[order]), num_selected))
    plain = selected(top_k()(RNG, jnp.asarray(scores), num_selected))
    assert sorted(order[shuffled].tolist()) == plain


@given(distinct_scores, st.integers(1, POOL_SIZE))
def test_increasing_maps_of_the_scores_change_nothing(scores, num_selected):
    plain = selected(top_k()(RNG, jnp.asarray(scores), num_selected))
    for mapped in (
        scores * 8,
        scores / 3 - 1e5,
        np.cbrt(scores),
        np.exp2(scores / 1e5),
    ):
        mapped = mapped.astype(np.float64)
        assert len(set(mapped.astype(np.float32))) < POOL_SIZE or plain == selected(
            top_k()(RNG, jnp.asarray(mapped, jnp.float32), num_selected)
        )


@given(distinct_scores, st.integers(1, POOL_SIZE - 1))
def test_what_is_selected_scores_above_the_pools_mean(scores, num_selected):
    ids = selected(top_k()(RNG, jnp.asarray(scores), num_selected))
    assert scores[ids].astype(np.float64).mean() > scores.astype(np.float64).mean()
