"""What holds for every score transform."""

import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.scores import ScoreTable
from tests.compilations import assert_same_program
from tests.families import TRANSFORMS

every_transform = pytest.mark.parametrize(
    "transform", TRANSFORMS.values(), ids=TRANSFORMS.keys()
)
SCORES = jax.random.normal(jax.random.key(0), (5, 10)).at[1, 3].set(jnp.nan)


def looped(transform):
    state, outputs = transform.init(10), []
    for scores in SCORES:
        transformed, state = transform.update(scores, state)
        outputs.append(transformed)
    return np.stack(outputs), state


@every_transform
def test_parameter_names_are_the_vocabulary(transform):
    assert list(inspect.signature(transform.init).parameters) == ["num_examples"]
    assert list(inspect.signature(transform.update).parameters) == ["scores", "state"]


@every_transform
def test_update_keeps_the_structure_and_types_of_the_state(transform):
    # a weak type that hardens compiles the caller a second time
    state = transform.init(10)
    transformed, new_state = transform.update(SCORES[0], state)
    assert transformed.shape == (10,)
    assert transformed.dtype == jnp.float32
    types = jax.tree.map(jax.typeof, state)
    assert jax.tree.map(jax.typeof, new_state) == types


@every_transform
def test_scan_equals_the_loop(transform):
    def body(state, scores):
        transformed, state = transform.update(scores, state)
        return state, transformed

    state, outputs = jax.lax.scan(body, transform.init(10), SCORES)
    expected, expected_state = looped(transform)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5),
        state,
        expected_state,
    )


@every_transform
def test_vmap_equals_the_loop(transform):
    together, _ = jax.vmap(lambda row: transform.update(row, transform.init(10)))(
        SCORES
    )
    for row, scores in zip(together, SCORES, strict=True):
        alone, _ = transform.update(scores, transform.init(10))
        np.testing.assert_allclose(row, alone, rtol=1e-5, atol=1e-6)


@every_transform
def test_infinite_scores_keep_their_place_and_move_no_other(transform):
    # +inf in a mean would turn every score into NaN, and top_k into the id order
    scores = jnp.array([1.0, jnp.inf, 2.0, -jnp.inf, 0.5, jnp.nan, 4.0, 3.0])
    transformed, _ = transform.update(scores, transform.init(8))
    assert np.isneginf(transformed[3])
    assert np.isnan(transformed[5])
    finite = np.asarray(transformed)[[0, 2, 4]]
    assert np.isfinite(finite).all()
    assert finite[2] < finite[0] < finite[1]


@every_transform
@pytest.mark.parametrize(
    "row",
    [[1.0, np.nan, 2.0], [np.nan] * 3, [-np.inf, np.nan, np.inf], [np.inf] * 3],
    ids=str,
)
def test_jax_debug_nans_and_check_tracer_leaks_report_nothing(transform, row):
    with jax.debug_nans(True), jax.checking_leaks():
        _, state = transform.update(np.array(row, np.float32), transform.init(3))
        transformed, state = transform.update(np.array(row, np.float32), state)
    np.testing.assert_array_equal(np.isnan(transformed), np.isnan(row))
    for leaf in jax.tree.leaves(state):  # a NaN here would be reported in a user's jit
        assert not np.isnan(leaf).any()


@every_transform
def test_numpy_arrays_and_lists_equal_jax_arrays(transform):
    row = SCORES[0]
    expected, _ = transform.update(row, transform.init(10))
    for scores in (np.asarray(row, np.float64), row.tolist()):
        transformed, _ = transform.update(scores, transform.init(10))
        np.testing.assert_array_equal(transformed, expected)
        assert transformed.dtype == jnp.float32


@every_transform
def test_64_bit_mode_keeps_the_types_of_the_state_too(transform):
    with jax.enable_x64(True):
        state = transform.init(10)
        types = jax.tree.map(jax.typeof, state)
        for dtype in (np.float32, np.float64):
            _, new_state = transform.update(np.asarray(SCORES[0], dtype), state)
            assert jax.tree.map(jax.typeof, new_state) == types


@every_transform
def test_a_score_table_in_place_of_its_scores_is_refused(transform):
    with pytest.raises(TypeError, match="scores is a ScoreTable: pass"):
        transform.update(ScoreTable.init(3), transform.init(3))


@every_transform
def test_pickling_keeps_the_transform(transform):
    again = pickle.loads(pickle.dumps(transform))
    assert repr(again) == repr(transform)
    state = transform.init(10)
    assert_same_program(again.update, transform.update, SCORES[0], state)


def test_repr_is_the_call():
    assert repr(TRANSFORMS["chain"]) == "chain(ema(0.5), standardize(), trim_top(0.9))"
