"""Gradient norms against a loop over jax.grad."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax.scores import gradient_norm, loss, reducible_loss


class Learner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x)))


MODEL = Learner()
PARAMS = MODEL.init(jax.random.key(0), jnp.zeros((1, 4)))
BATCH = {
    "x": jax.random.normal(jax.random.key(1), (7, 4)),
    "y": jnp.array([0, 1, 2, 0, 1, 2, 0]),
}


def loss_fn(params, rng, batch):
    logits = jnp.asarray(MODEL.apply(params, batch["x"]))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


@pytest.fixture(scope="module")
def norms() -> list[float]:
    def loss_of(params, i):
        return loss_fn(params, None, jax.tree.map(lambda leaf: leaf[i : i + 1], BATCH))[
            0
        ]

    return [float(optax.tree.norm(jax.grad(loss_of)(PARAMS, i))) for i in range(7)]


@pytest.mark.parametrize("microbatch_size", [None, 1, 2, 3, 7, 50])
def test_norm_is_that_of_each_examples_own_gradient(microbatch_size, norms):
    # 2 and 3 leave a remainder; the largest leaf's norm alone would be smaller
    score = gradient_norm(loss_fn, microbatch_size)
    np.testing.assert_allclose(score(PARAMS, None, BATCH), norms, rtol=1e-5)


@pytest.mark.parametrize(
    "trainable",
    [
        lambda path: path.startswith("params/Dense_1"),
        {"params": {"Dense_0": False, "Dense_1": True}},
    ],
    ids=["paths", "prefix"],
)
def test_frozen_leaves_do_not_count(trainable, norms):
    score = gradient_norm(loss_fn, trainable=trainable)

    def loss_of(head, i):
        params = {"params": {**PARAMS["params"], "Dense_1": head}}
        one = jax.tree.map(lambda leaf: leaf[i : i + 1], BATCH)
        return loss_fn(params, None, one)[0]

    head = PARAMS["params"]["Dense_1"]
    expected = [float(optax.tree.norm(jax.grad(loss_of)(head, i))) for i in range(7)]
    np.testing.assert_allclose(score(PARAMS, None, BATCH), expected, rtol=1e-5)
    assert (np.array(expected) < norms).all()


def test_integer_leaves_may_be_frozen():
    params = {"w": jnp.ones(4), "step": jnp.int32(7)}
    score = gradient_norm(
        lambda p, rng, batch: (batch @ p["w"]) ** 2 / 2,
        trainable=lambda path: path == "w",
    )
    np.testing.assert_allclose(score(params, None, jnp.ones((1, 4))), [8.0])


def test_half_precision_gradients_are_summed_in_float32():
    # squares of 300 overflow float16
    score = gradient_norm(lambda w, rng, batch: batch @ w)
    batch = jnp.full((2, 4), 300, jnp.float16)
    norms = score(jnp.ones(4, jnp.float16), None, batch)
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, [600.0, 600.0])


def test_loss_is_the_loss_and_reducible_loss_is_loss_minus_reference():
    losses = np.asarray(loss_fn(PARAMS, None, BATCH))
    np.testing.assert_array_equal(loss(loss_fn)(PARAMS, None, BATCH), losses)
    references = jnp.arange(7.0)
    score = reducible_loss(loss_fn, lambda batch: references)
    # with the other sign, examples that are already learnt would come first
    np.testing.assert_allclose(score(PARAMS, None, BATCH), losses - np.arange(7.0))
