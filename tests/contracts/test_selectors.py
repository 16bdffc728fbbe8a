"""What every selector keeps."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_jax import selectors
from attent_jax.typing import Selection
from tests.families import POOL_SIZE, SELECTORS

SCORES = np.random.default_rng(0).uniform(size=POOL_SIZE).astype(np.float32)
pools = st.lists(
    st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]),
    min_size=POOL_SIZE,
    max_size=POOL_SIZE,
).map(lambda values: jnp.array(values, jnp.float32))
seeds = st.integers(0, 2**31 - 1)

every_selector = pytest.mark.parametrize(
    "select", SELECTORS.values(), ids=SELECTORS.keys()
)


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_family_is_complete():
    assert {name.split()[0] for name in SELECTORS} == set(selectors.__all__)


@every_selector
def test_parameters_are_rng_scores_num_selected(select):
    parameters = inspect.signature(select).parameters
    assert list(parameters) == ["rng", "scores", "num_selected"]


@every_selector
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_types_do_not_follow_the_scores(select, dtype):
    selection = select(jax.random.key(0), jnp.asarray(SCORES, dtype), 3)
    assert isinstance(selection, Selection)
    # float16 weights would round a train step's sum of weights
    assert [(leaf.shape, leaf.dtype) for leaf in selection] == [
        ((POOL_SIZE,), jnp.int32),
        ((POOL_SIZE,), jnp.float32),
        ((), jnp.int32),
    ]


@every_selector
@given(scores=pools, num_selected=st.integers(1, POOL_SIZE), seed=seeds)
def test_selection_is_a_permutation_with_the_selected_first(
    select, scores, num_selected, seed
):
    indices, weights, count = select(jax.random.key(seed), scores, num_selected)
    assert sorted(indices.tolist()) == list(range(POOL_SIZE))
    assert count == num_selected
    positive = np.asarray(weights) > 0
    assert positive[:num_selected].all()
    assert not positive[num_selected:].any()


@every_selector
def test_jit_equals_eager_and_traces_once_for_all_counts(select):
    num_traces = 0

    @jax.jit
    def compiled(rng, scores, num_selected):
        nonlocal num_traces
        num_traces += 1
        return select(rng, scores, num_selected)

    for num_selected in range(1, POOL_SIZE + 1):
        rng = jax.random.key(num_selected)
        assert_identical(
            compiled(rng, SCORES, num_selected),
            select(rng, jnp.asarray(SCORES), num_selected),
        )
    assert num_traces == 1


@every_selector
@pytest.mark.parametrize("batched", [jax.vmap, lambda f: lambda *xs: scan(f, xs)])
def test_vmap_and_scan_equal_a_loop(select, batched):
    rngs = jax.random.split(jax.random.key(1), 5)
    pools = jax.random.normal(jax.random.key(2), (5, POOL_SIZE))
    counts = jnp.array([1, 2, 5, 10, 11])
    at_once = batched(select)(rngs, pools, counts)
    for i in range(5):
        one = jax.tree.map(lambda leaf: leaf[i], at_once)  # noqa: B023
        assert_identical(one, select(rngs[i], pools[i], counts[i]))


def scan(function, arguments):
    return jax.lax.scan(lambda _, xs: (None, function(*xs)), None, arguments)[1]


@every_selector
def test_only_hard_selection_ignores_the_rng(select):
    def selected(seed):
        return select(jax.random.key(seed), jnp.asarray(SCORES), 4).indices[:4].tolist()

    outcomes = {tuple(selected(seed)) for seed in range(20)}
    is_hard = select in (
        SELECTORS["top_k"],
        SELECTORS["top_k nan_first"],
        SELECTORS["gumbel_top_k cold"],  # but for ties, of which there are none here
    )
    assert (len(outcomes) == 1) == is_hard
    assert selected(7) == selected(7)
