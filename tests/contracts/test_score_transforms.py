"""What every score transform keeps."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
def test_state_is_a_fixpoint_weak_types_included(transform):
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
