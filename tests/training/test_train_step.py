"""The train step against numpy, finite differences and golden numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax.models import TextClassifier
from attent_jax.training import init_train_state, make_train_step

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=6).astype(np.float32)
BATCH = {"x": X, "y": Y}
WEIGHTS = jnp.array([1.0, 0.5, 2.0, 0.0, 1.0, 0.25])


def loss_fn(params, rng, batch):
    return (batch["x"] @ params - batch["y"]) ** 2 / 2


def test_two_steps_are_numpys_weighted_gradient_descent():
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(loss_fn, optimizer)
    state = init_train_state(jnp.array([1.0, -1.0, 0.5]), optimizer)
    w = np.array([1.0, -1.0, 0.5])
    for step in range(2):
        state, info = train_step(state, None, BATCH, WEIGHTS)
        errors = X @ w - Y
        # divided by Σ w = 4.75, not by the 6 rows or the 5 that count
        loss = np.sum(WEIGHTS * errors**2 / 2) / WEIGHTS.sum()
        gradient = X.T @ (WEIGHTS * errors) / WEIGHTS.sum()
        w = w - 0.1 * gradient
        np.testing.assert_allclose(info.loss, loss, rtol=1e-5)
        np.testing.assert_allclose(info.losses, errors**2 / 2, rtol=1e-4)
        np.testing.assert_allclose(info.grad_norm, np.linalg.norm(gradient), rtol=1e-5)
        np.testing.assert_allclose(state.params, w, rtol=1e-5)
        assert int(state.step) == step + 1


@pytest.mark.parametrize("filling", [0.0, 1e6])
def test_rows_of_weight_zero_have_no_part_in_the_step(filling):
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(loss_fn, optimizer)
    state = init_train_state(jnp.ones(3), optimizer)
    padding = np.array([3])
    filled = {"x": X, "y": np.where(np.arange(6) == 3, filling, Y).astype(np.float32)}
    without = {"x": np.delete(X, padding, 0), "y": np.delete(Y, padding)}
    new, info = train_step(state, None, filled, WEIGHTS)
    expected, expected_info = train_step(
        state, None, without, jnp.delete(WEIGHTS, padding)
    )
    np.testing.assert_allclose(info.loss, expected_info.loss, rtol=1e-6)
    np.testing.assert_allclose(info.grad_norm, expected_info.grad_norm, rtol=1e-6)
    np.testing.assert_allclose(new.params, expected.params, rtol=1e-6)


def test_a_batch_of_padding_alone_changes_nothing():
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(loss_fn, optimizer)
    state = init_train_state(jnp.ones(3), optimizer)
    new, info = train_step(state, None, BATCH, jnp.zeros(6))
    assert info.loss == info.grad_norm == 0  # 0 / 0 would be NaN
    np.testing.assert_array_equal(new.params, state.params)


def test_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), BATCH)
        weights = jnp.asarray(WEIGHTS, jnp.float64)
        optimizer = optax.sgd(1.0)
        train_step = make_train_step(
            lambda w, rng, batch: jnp.cosh(loss_fn(w, rng, batch)), optimizer
        )

        def step_from(params):
            state = init_train_state(jnp.asarray(params), optimizer)
            return train_step(state, None, batch, weights)

        params, epsilon = np.array([0.3, -0.2, 0.5]), 1e-6
        gradient = params - step_from(params)[0].params
        numeric = [
            (step_from(params + d)[1].loss - step_from(params - d)[1].loss)
            / (2 * epsilon)
            for d in epsilon * np.eye(3)
        ]
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6)


def test_randomness_follows_the_step_and_the_key():
    def noise(params, rng, batch):
        return jax.random.uniform(rng, (len(batch),)) + 0 * params

    optimizer = optax.sgd(0.1)
    train_step = make_train_step(noise, optimizer)
    start, batch = init_train_state(jnp.array(0.0), optimizer), jnp.zeros(4)

    def losses(state, seed):
        state, info = train_step(state, jax.random.key(seed), batch, jnp.ones(4))
        return state, info.losses.tolist()

    second, first_losses = losses(start, seed=0)
    assert losses(start, seed=0)[1] == first_losses
    assert losses(start, seed=1)[1] != first_losses
    # one key serves a training: the same dropout mask in each step, if not folded
    assert losses(second, seed=0)[1] != first_losses


def test_aux_comes_back_as_it_is():
    def with_aux(params, rng, batch):
        losses = loss_fn(params, rng, batch)
        return losses, {"outputs": batch["x"] @ params, "accuracy": jnp.mean(losses)}

    optimizer = optax.sgd(0.1)
    state = init_train_state(jnp.ones(3), optimizer)
    step = make_train_step(with_aux, optimizer, has_aux=True)
    new, info = step(state, None, BATCH, WEIGHTS)
    np.testing.assert_allclose(info.aux["outputs"], X @ np.ones(3), rtol=1e-6)
    np.testing.assert_allclose(info.aux["accuracy"], np.mean(info.losses), rtol=1e-6)
    plain = make_train_step(loss_fn, optimizer)
    expected, expected_info = plain(state, None, BATCH, WEIGHTS)
    np.testing.assert_array_equal(new.params, expected.params)
    assert expected_info.aux is None


def test_forgotten_or_unannounced_aux_is_refused():
    optimizer = optax.sgd(0.1)
    state = init_train_state(jnp.ones(3), optimizer)

    def with_aux(params, rng, batch):
        return loss_fn(params, rng, batch), {}

    for function, has_aux, count in ((loss_fn, True, "no"), (with_aux, False, "a")):
        step = make_train_step(function, optimizer, has_aux=has_aux)
        with pytest.raises(TypeError, match=f"returned {count} tuple but has_aux is"):
            step(state, None, BATCH, WEIGHTS)


@pytest.mark.parametrize("function", [None, 1.0, lambda params, batch: batch])
def test_what_is_no_loss_function_is_refused(function):
    with pytest.raises(TypeError, match=r"loss_fn must be a function \(params, rng, b"):
        make_train_step(function, optax.sgd(0.1))


def test_a_donated_state_is_updated_in_place():
    optimizer = optax.sgd(0.1)
    state = init_train_state(jnp.array([1.0, -1.0, 0.5]), optimizer)
    expected, _ = make_train_step(loss_fn, optimizer)(state, None, BATCH, WEIGHTS)
    step = jax.jit(make_train_step(loss_fn, optimizer), donate_argnums=0)
    new, _ = step(state, None, BATCH, WEIGHTS)
    np.testing.assert_array_equal(new.params, expected.params)
    assert state.params.is_deleted()


def test_a_training_traces_once_over_ragged_batches():
    num_traces = 0

    def counted(params, rng, batch):
        nonlocal num_traces
        num_traces += 1
        return loss_fn(params, rng, batch)

    optimizer = optax.adam(0.1)
    train_step = make_train_step(counted, optimizer)
    state = init_train_state(jnp.ones(3), optimizer)
    types = jax.tree.map(jax.typeof, state)
    for count in range(1, 7):
        weights = (jnp.arange(6) < count).astype(jnp.float32)
        state, _ = train_step(state, jax.random.key(0), BATCH, weights)
        assert jax.tree.map(jax.typeof, state) == types
    assert num_traces == 1


def rms(tree) -> float:
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return float(np.sqrt(np.mean(np.concatenate(leaves) ** 2)))


# Printed by a run with `GOLDEN = {}`: pytest shows `computed`. jax 0.10.2 and 0.12.0.1
# agree to 6e-7. A broken initialiser, loss weight or optimizer moves them.
GOLDEN = {
    "gradients": 0.0949798,
    "updates": 0.00890336,
    "params": 0.32963646,
    "loss": 0.84387422,
}


def test_golden_train_step():
    model = TextClassifier(
        vocabulary_size=20, num_classes=3, width=8, num_layers=1, num_heads=2
    )
    tokens = jnp.array([[3, 5, 7, 0], [1, 2, 0, 0], [9, 11, 13, 15], [4, 0, 0, 0]])
    labels = jnp.array([0, 1, 2, 0])

    def classification_loss(params, rng, batch):
        logits = jnp.asarray(model.apply(params, batch[0]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])

    params = model.init(jax.random.key(0), tokens)
    # the step's gradients, by plain gradient descent of rate 1
    gradient_step = make_train_step(classification_loss, optax.sgd(1.0))
    batch, weights = (tokens, labels), jnp.array([1.0, 0.5, 1.0, 0.0])
    moved, _ = gradient_step(
        init_train_state(params, optax.sgd(1.0)), None, batch, weights
    )
    optimizer = optax.adamw(1e-2, eps=1e-3)
    state, info = make_train_step(classification_loss, optimizer)(
        init_train_state(params, optimizer), None, batch, weights
    )
    computed = {
        "gradients": rms(jax.tree.map(jnp.subtract, params, moved.params)),
        "updates": rms(jax.tree.map(jnp.subtract, state.params, params)),
        "params": rms(state.params),
        "loss": float(info.loss),
    }
    assert computed == pytest.approx(GOLDEN, rel=1e-5)
