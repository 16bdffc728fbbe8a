"""The mixture of NTK scores, errors and a uniform draw."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_jax import distributed
from attent_jax.selectors import NintScores, nint

KEY = jax.random.key(0)
POOL_SIZE = 40
MIXED = jax.jit(nint(0.4, 3.0))
RISING = jnp.arange(float(POOL_SIZE))
values = st.lists(
    st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]),
    min_size=POOL_SIZE,
    max_size=POOL_SIZE,
).map(lambda values: np.array(values, np.float32))
mostly_nan = st.tuples(values, st.integers(0, 20)).map(
    lambda drawn: np.where(np.arange(POOL_SIZE) < drawn[1], drawn[0], np.nan).astype(
        np.float32
    )
)


def guided_counts(random_share, decay, num_selected, refresh):
    """How many by NTK score and by error, in float64."""
    num_guided = num_selected - math.floor(random_share * num_selected)
    num_ntk = math.floor(num_guided * math.exp(-refresh / decay))
    return num_ntk, num_guided - num_ntk


def guided_part(scores, num_ntk, num_error):
    """The ids that are not random: by falling score, ties by id."""
    scored = np.flatnonzero(~np.isnan(scores.ntk) & ~np.isnan(scores.error)).tolist()
    by_ntk = sorted(scored, key=lambda i: (-scores.ntk[i], i))[:num_ntk]
    others = [i for i in scored if i not in by_ntk]
    by_error = sorted(others, key=lambda i: (-scores.error[i], i))[:num_error]
    return {*by_ntk, *by_error}


@given(
    ntk=values | mostly_nan,
    error=values,
    num_selected=st.integers(1, POOL_SIZE),
    refresh=st.integers(0, 12),
    seed=st.integers(0, 2**31 - 1),
)
def test_the_guided_parts_are_the_largest_of_a_sort(
    ntk, error, num_selected, refresh, seed
):
    scores = NintScores(ntk, error)
    selection = MIXED(jax.random.key(seed), scores, num_selected, refresh)
    assert sorted(selection.indices.tolist()) == list(range(POOL_SIZE))
    assert selection.weights.tolist() == [1.0] * num_selected + [0.0] * (
        POOL_SIZE - num_selected
    )
    chosen = set(selection.indices[:num_selected].tolist())
    guided = guided_part(scores, *guided_counts(0.4, 3.0, num_selected, refresh))
    assert guided <= chosen
    # what is drawn at random has a score as long as there is such an example
    unscored = set(np.flatnonzero(np.isnan(ntk) | np.isnan(error)).tolist())
    assert not chosen & unscored or len(chosen | unscored) == POOL_SIZE


@pytest.mark.parametrize(
    ("random_share", "decay"), [(0.1, 10.0), (0.7, 0.5), (0.7, math.inf), (1.0, 1.0)]
)
def test_the_counts_are_numpys(random_share, decay):
    # by NTK score the first of the pool, by error the last, and no others are scored
    # higher: the counts can be read off
    scores = NintScores(-RISING, RISING)
    select = jax.jit(nint(random_share, decay))
    for num_selected in (1, 2, 3, 7, 8, 39):
        for refresh in (0, 1, 2, 9, 30, 1000):
            num_ntk, num_error = guided_counts(
                random_share, decay, num_selected, refresh
            )
            drawn = [
                set(select(jax.random.key(seed), scores, num_selected, refresh)
                    .indices[:num_selected].tolist())
                for seed in range(12)
            ]  # fmt: skip
            always = set.intersection(*drawn)
            expected = {*range(num_ntk), *range(POOL_SIZE - num_error, POOL_SIZE)}
            assert expected <= always
            if num_selected < POOL_SIZE - 10:
                # a count too many in either part would be seen at its end
                assert num_ntk not in always
                assert POOL_SIZE - 1 - num_error not in always


def test_at_first_all_guided_examples_are_by_ntk_and_later_by_error():
    scores = NintScores(-RISING, RISING)
    assert set(range(6)) <= set(MIXED(KEY, scores, 10, 0).indices[:10].tolist())
    assert set(range(34, 40)) <= set(MIXED(KEY, scores, 10, 50).indices[:10].tolist())


def test_the_random_part_is_uniform_over_the_rest():
    scores = NintScores(-RISING, RISING)
    rngs = jax.random.split(KEY, 4000)

    @jax.jit
    @jax.vmap
    def drawn(rng):
        selection = MIXED(rng, scores, 10, 1)
        return jnp.zeros(POOL_SIZE).at[selection.indices].set(selection.weights)

    counts = np.asarray(drawn(rngs).sum(axis=0))
    assert guided_counts(0.4, 3.0, 10, 1) == (4, 2)
    assert (counts[[0, 1, 2, 3, 38, 39]] == 4000).all()
    rest = counts[4:38]
    expected = 4000 * 4 / 34
    statistic = np.sum((rest - expected) ** 2 / expected) * 33 / 30  # 4 of 34
    assert statistic < 68.7  # the 1 - 3e-4 quantile at 33 degrees of freedom


def test_traced_counts_and_refreshes_compile_once_and_give_the_same():
    eager, num_traces = nint(0.4, 3.0), 0

    @jax.jit
    def compiled(rng, scores, num_selected, refresh):
        nonlocal num_traces
        num_traces += 1
        return eager(rng, scores, num_selected, refresh)

    scores = NintScores(jax.random.normal(KEY, (POOL_SIZE,)), RISING)
    for num_selected, refresh in [(1, 0), (17, 1), (17, 4), (40, 20)]:
        jax.tree.map(
            np.testing.assert_array_equal,
            compiled(KEY, scores, num_selected, refresh),
            eager(KEY, scores, num_selected, refresh),
        )
    assert num_traces == 1


@pytest.mark.parametrize("size", [41, 3])
def test_over_a_mesh_it_is_the_single_devices_choice(size):
    mesh = distributed.make_mesh()
    draw = np.random.default_rng(size)
    scores = NintScores(draw.integers(0, 3, size) / 2.0, draw.normal(size=size))
    scores.error[0] = np.nan
    over_mesh = jax.jit(nint(0.4, 3.0, mesh=mesh))
    for num_selected in {1, 2, size // 2, size}:
        for refresh in (0, 2, 50):
            jax.tree.map(
                np.testing.assert_array_equal,
                over_mesh(KEY, scores, num_selected, refresh),
                nint(0.4, 3.0)(KEY, scores, num_selected, refresh),
            )


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda: nint(0.0),
            ValueError,
            r"random_share must lie in \(0, 1\], got 0: choose",
        ),
        (lambda: nint(1.1), ValueError, r"random_share must lie in \(0, 1\], got 1.1"),
        (lambda: nint(math.nan), ValueError, r"random_share must lie in .*got nan"),
        (lambda: nint(0.7, 0.0), ValueError, r"decay must lie in \(0, inf\], got 0"),
        (lambda: nint(0.7, -1.0), ValueError, r"decay must lie in \(0, inf\], got -1"),
        (
            lambda: nint()(KEY, RISING, 3, 0),  # pyright: ignore[reportArgumentType]
            TypeError,
            r"scores must be NintScores, got .*: pass .*NintScores\(ntk, error\)",
        ),
        (
            lambda: nint()(KEY, NintScores(RISING, RISING[:5]), 3, 0),
            ValueError,
            "scores.ntk has 40 examples but scores.error 5: pass both of the same pool",
        ),
        (
            lambda: nint()(KEY, NintScores(RISING, jnp.arange(40)), 3, 0),
            TypeError,
            "scores.error must be floating point, got int32",
        ),
        (
            lambda: nint()(KEY, NintScores(RISING, RISING), 3, -1),
            ValueError,
            "refresh must be at least 0, got -1",
        ),
        (
            lambda: nint()(KEY, NintScores(RISING, RISING), 41, 0),
            ValueError,
            "num_selected must be at most the pool's 40 examples, got 41",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(act, error, message):
    with pytest.raises(error, match=message):
        act()
