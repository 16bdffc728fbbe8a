"""What every selector keeps."""

import contextlib
import inspect
import pickle
import pydoc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_jax import selectors
from attent_jax.typing import Selection
from tests.compilations import assert_same_program
from tests.families import POOL_SIZE, SELECTORS, members

SCORES = np.random.default_rng(0).uniform(size=POOL_SIZE).astype(np.float32)
pools = st.lists(
    st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]),
    min_size=POOL_SIZE,
    max_size=POOL_SIZE,
).map(lambda values: jnp.array(values, jnp.float32))
seeds = st.integers(0, 2**31 - 1)

every_selector = pytest.mark.parametrize("select", members(SELECTORS))


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_family_is_complete():
    members = {name.split()[0] for name in SELECTORS}
    assert members | {"NintScores"} == set(selectors.__all__)


@every_selector
def test_parameters_are_rng_scores_num_selected(select):
    parameters = inspect.signature(select).parameters
    assert list(parameters) == ["rng", "scores", "num_selected"]


def abstract_selection(select, scores):
    """Shapes and types without a compilation."""
    return jax.eval_shape(lambda rng: select(rng, scores, 3), jax.random.key(0))


@every_selector
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_types_do_not_follow_the_scores(select, dtype):
    selection = abstract_selection(select, jnp.asarray(SCORES, dtype))
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
    # a traced count is clamped to the pool
    for count, clamped in ((-3, 0), (0, 0), (99, POOL_SIZE)):
        indices, weights, num_selected = compiled(jax.random.key(0), SCORES, count)
        assert num_selected == clamped
        assert sorted(indices.tolist()) == list(range(POOL_SIZE))
        assert jnp.sum(weights > 0) == clamped
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
def test_examples_without_a_score_come_last(select):
    if select is SELECTORS["top_k nan_first"]:
        return
    for num_scored in (1, 4, POOL_SIZE - 1):
        order = np.random.default_rng(num_scored).permutation(POOL_SIZE)
        scored = set(order[:num_scored].tolist())
        scores = jnp.asarray(SCORES).at[order[num_scored:]].set(jnp.nan)
        for num_selected in range(1, POOL_SIZE + 1):
            indices, _, _ = select(jax.random.key(num_selected), scores, num_selected)
            selected = set(indices[:num_selected].tolist())
            # a uniform draw from all 11 would be right with 4 of 4 in 1 of 330 cases
            assert (
                selected <= scored
                if num_selected <= num_scored
                else (scored <= selected)
            )


@every_selector
def test_a_pool_without_any_score_is_selected_from(select):
    scores = jnp.full(POOL_SIZE, jnp.nan)
    indices, weights, _ = select(jax.random.key(0), scores, 4)
    assert sorted(indices.tolist()) == list(range(POOL_SIZE))
    assert weights.tolist() == [1.0] * 4 + [0.0] * (POOL_SIZE - 4)


@every_selector
@pytest.mark.parametrize(
    "count", [np.int64(4), np.array(4), jnp.array(4), jnp.uint8(4)]
)
def test_a_count_is_any_integer(select, count):
    rng, scores = jax.random.key(0), jnp.asarray(SCORES)
    assert_identical(select(rng, scores, count), select(rng, scores, 4))
    too_many = count * 3
    with pytest.raises(ValueError, match=r"num_selected must be at most.*got 12"):
        select(rng, scores, too_many)
    with pytest.raises(TypeError, match="num_selected must be an integer, got"):
        select(rng, scores, count / 2)
    with pytest.raises(TypeError, match=r"num_selected must be an integer, got.*float"):
        jax.jit(select)(rng, scores, count / 2)


@every_selector
def test_numpy_arrays_and_lists_are_scores(select):
    rng = jax.random.key(0)
    expected = select(rng, jnp.asarray(SCORES), 4)
    for scores in (SCORES, SCORES.astype(np.float64), SCORES.tolist()):
        assert_identical(select(rng, scores, 4), expected)
    huge = np.array([1e300, -1e300, *SCORES[2:]])  # ±inf in float32
    assert sorted(select(rng, huge, 4).indices.tolist()) == list(range(POOL_SIZE))


@every_selector
def test_float64_is_kept_where_it_is_on(select):
    with jax.enable_x64(True):
        selection = abstract_selection(select, SCORES.astype(np.float64))
        assert [leaf.dtype for leaf in selection] == [jnp.int32, jnp.float32, jnp.int32]


@every_selector
def test_nans_are_not_computed_with(select):
    scores = jnp.asarray(SCORES).at[2].set(jnp.nan)
    with jax.debug_nans(True), strict_promotion():
        select(jax.random.key(0), scores, 4)
        jax.jit(select)(jax.random.key(0), scores, 5)


@every_selector
def test_no_tracer_leaks(select):
    with jax.checking_leaks():
        jax.eval_shape(select, jax.random.key(0), SCORES, 5)
        rngs = jax.random.split(jax.random.key(0), 2)
        jax.eval_shape(jax.vmap(select, in_axes=(0, None, None)), rngs, SCORES, 3)


@contextlib.contextmanager
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


@every_selector
def test_a_pickled_selector_selects_the_same(select):
    again = pickle.loads(pickle.dumps(select))
    assert repr(again) == repr(select)
    arguments = jax.random.key(0), SCORES, 6
    assert_same_program(again, select, *arguments)


def test_a_selector_says_what_it_is():
    assert repr(SELECTORS["top_k nan_first"]) == "top_k(nan_first=True)"
    assert repr(SELECTORS["balanced"]) == "balanced(int64[11])"
    nested = "mix_uniform(gumbel_top_k(), 0.4)"
    assert repr(SELECTORS["mix_uniform of gumbel_top_k"]) == nested


@every_selector
def test_help_describes_the_selector(select):
    text = pydoc.render_doc(select, renderer=pydoc.TextDoc())
    assert repr(select) in text
    assert "(rng, scores[pool], num_selected) -> Selection" in text


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
