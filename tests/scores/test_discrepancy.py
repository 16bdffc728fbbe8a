"""Distances in function space against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax.scores import discrepancy, functional_gradient_norm, masked_mean

DRAW = np.random.default_rng(0)
OUTPUTS = DRAW.normal(size=(4, 5, 3)).astype(np.float32)
TARGETS = DRAW.normal(size=(4, 5, 3)).astype(np.float32)
MASK = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 1, 1, 0, 1]])


def outputs_of(params, rng, batch):
    return batch["outputs"]


def mask_of(batch):
    return batch["mask"]


def token_losses(outputs, batch):
    return jnp.sum((outputs - batch["targets"]) ** 2, axis=-1) / 2


MASKED_SCORES = {
    "discrepancy": discrepancy(outputs_of, mask_fn=mask_of),
    # for half the squared error the functional gradient is the error itself
    "functional_gradient_norm": functional_gradient_norm(
        outputs_of, token_losses, mask_fn=mask_of
    ),
}
every_masked_score = pytest.mark.parametrize(
    "score", MASKED_SCORES.values(), ids=MASKED_SCORES.keys()
)


def test_discrepancy_is_the_frobenius_norm():
    score = discrepancy(outputs_of)
    batch = {"outputs": jnp.asarray(OUTPUTS), "targets": jnp.asarray(TARGETS)}
    expected = [np.linalg.norm(difference) for difference in OUTPUTS - TARGETS]
    np.testing.assert_allclose(score(None, None, batch), expected, rtol=1e-6)


@every_masked_score
def test_masked_scores_are_root_mean_squares_over_valid_positions(score):
    batch = {
        "outputs": jnp.asarray(OUTPUTS),
        "targets": jnp.asarray(TARGETS),
        "mask": jnp.asarray(MASK, bool),
    }
    distances = np.linalg.norm(OUTPUTS - TARGETS, axis=-1)
    expected = [
        np.sqrt(np.mean(row[valid.astype(bool)] ** 2))
        for row, valid in zip(distances, MASK, strict=True)
    ]
    np.testing.assert_allclose(score(None, None, batch), expected, rtol=1e-6)


@every_masked_score
@pytest.mark.parametrize("filling", [0.0, 1e9, np.inf, np.nan])
def test_padding_is_not_read(score, filling):
    # a mean over padded positions would change the order of the examples
    def padded(array, value):
        return jnp.pad(array, [(0, 0), (0, 3), (0, 0)], constant_values=value)

    short = {"outputs": jnp.asarray(OUTPUTS), "targets": jnp.asarray(TARGETS)}
    long = {
        "outputs": padded(OUTPUTS, filling),
        "targets": padded(TARGETS, 0.0),
        "mask": jnp.pad(jnp.asarray(MASK, bool), [(0, 0), (0, 3)]),
    }
    short["mask"] = jnp.asarray(MASK, bool)
    np.testing.assert_allclose(
        score(None, None, long), score(None, None, short), rtol=1e-6
    )


def test_cross_entropys_functional_gradient_is_softmax_minus_one_hot():
    score = functional_gradient_norm(
        lambda params, rng, batch: batch["x"],
        lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["y"]
        ),
    )
    logits, labels = OUTPUTS[:, 0], np.array([0, 2, 1, 1])
    residual = jax.nn.softmax(logits) - np.eye(3, dtype=np.float32)[labels]
    # the mean loss's gradient would be a quarter of it
    np.testing.assert_allclose(
        score(None, None, {"x": jnp.asarray(logits), "y": jnp.asarray(labels)}),
        np.linalg.norm(residual, axis=-1),
        rtol=1e-5,
    )


def test_functional_gradient_is_each_examples_own_by_a_loop_of_grads():
    def losses(outputs, batch):
        return jnp.sum(jnp.cosh(outputs - batch["targets"]), axis=(1, 2))

    score = functional_gradient_norm(outputs_of, losses)
    batch = {"outputs": jnp.asarray(OUTPUTS), "targets": jnp.asarray(TARGETS)}

    def loss_of(outputs, targets):
        return losses(outputs[None], {"targets": targets[None]})[0]

    expected = [
        jnp.linalg.norm(jax.grad(loss_of)(output, target).ravel())
        for output, target in zip(batch["outputs"], batch["targets"], strict=True)
    ]
    np.testing.assert_allclose(score(None, None, batch), expected, rtol=1e-5)


def test_half_precision_distances_are_summed_in_float32():
    batch = {"outputs": jnp.full((1, 4), 300, jnp.float16), "targets": np.zeros((1, 4))}
    distance = discrepancy(outputs_of)(None, None, batch)
    assert distance.dtype == jnp.float32  # squares of 300 overflow float16
    np.testing.assert_allclose(distance, [600.0])


def test_masked_mean_takes_numpy_arrays_of_float64():
    mean = masked_mean(np.array([[1.0, 5.0]]), np.array([[True, False]]))
    assert mean.dtype == jnp.float32
    assert mean.tolist() == [1.0]


def test_masked_mean_counts_valid_positions_only():
    values = jnp.array([[1.0, 3.0, 8.0], [5.0, jnp.nan, jnp.inf], [7.0, 7.0, 7.0]])
    mask = jnp.array([[True, True, False], [True, False, False], [False] * 3])
    # a mean over padding: [1.33, nan, 0]
    np.testing.assert_array_equal(masked_mean(values, mask), [2.0, 5.0, 0.0])
    np.testing.assert_array_equal(masked_mean(values[:1]), [4.0])
    weighted = masked_mean(values[:1], jnp.array([[3.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(weighted, [1.5])


def test_masked_mean_takes_trailing_axes_whole():
    values = jnp.arange(12.0).reshape(1, 3, 4)
    mask = jnp.array([[True, False, True]])
    np.testing.assert_allclose(masked_mean(values, mask), [(1.5 + 9.5) / 2])
    np.testing.assert_allclose(masked_mean(values), [5.5])
