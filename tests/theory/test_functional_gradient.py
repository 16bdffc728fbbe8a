"""Descent in function space: by hand, in closed form, and beside the parameters'."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import selectors
from tests.theory.small_networks import (
    MLP,
    MULTI,
    POINTS1,
    POINTS2,
    X,
    assert_equal,
    mlp,
)
from theory._neural_tangents import neural_tangents as nt
from theory.attention_ntk import attention, attention_ntk
from theory.empirical_ntk import empirical_ntk
from theory.functional_gradient import (
    consistency_residual,
    functional_gradient_descent,
    predict_mse,
    teach_function,
)
from theory.layout import kernel_product

RNG: Any = np.random.default_rng(0)
NUM_POOL, NUM_POINTS = 4, 6
FEATURES = RNG.normal(size=(NUM_POINTS, 5))
ALL = FEATURES @ FEATURES.T
"""Between all points, the pool first."""
POOL, TO_POINTS = ALL[:NUM_POOL, :NUM_POOL], ALL[:, :NUM_POOL]
START, TARGETS = RNG.normal(size=NUM_POINTS), RNG.normal(size=NUM_POOL)
KEY = jax.random.key(0)


def errors(outputs):
    return outputs - TARGETS


def descend(kernel, learning_rate, outputs, num_steps, gradient_fn=errors):
    """The outputs after some full-batch steps."""
    descent = functional_gradient_descent(
        jnp.asarray(kernel), gradient_fn, learning_rate
    )
    weights = jnp.full(kernel.shape[1], 1 / kernel.shape[1])

    def step(state, _):
        return descent.step(state, weights), None

    state = descent.init(jnp.asarray(outputs))
    state, _ = jax.lax.scan(step, state, length=num_steps)
    assert state.step == num_steps
    return state.outputs


# descent


def test_step_by_hand():
    kernel = jnp.array([[2.0, 1.0], [1.0, 3.0], [0.5, -1.0]])
    targets = jnp.array([1.0, -1.0])
    descent = functional_gradient_descent(kernel, lambda f: f - targets, 0.1)
    state = descent.init(jnp.array([2.0, 1.0, 5.0]))
    np.testing.assert_array_equal(descent.functional_gradient(state), [1.0, 2.0])
    state = descent.step(state, jnp.array([0.5, 0.25]))
    # K (0.5 · 1, 0.25 · 2) = (1.5, 2, −0.25)
    np.testing.assert_allclose(state.outputs, [1.85, 0.8, 5.025])
    assert state.step == 1


def test_traced_kernel_descends_in_each_channel_alone():
    targets = RNG.normal(size=(NUM_POOL, 3))
    outputs = RNG.normal(size=(NUM_POINTS, 3))
    found = descend(TO_POINTS, 0.1, outputs, 5, lambda f: f - targets)
    for i in range(3):
        alone = descend(
            TO_POINTS, 0.1, outputs[:, i], 5, lambda f, i=i: f - targets[:, i]
        )
        np.testing.assert_allclose(found[:, i], alone)


def test_example_out_of_the_pool_follows_its_twin_in_it():
    kernel = jnp.asarray(ALL[[0, 1, 2, 3, 2], :NUM_POOL])
    outputs = jnp.asarray(START[[0, 1, 2, 3, 2]])
    state, _ = teach_function(
        functional_gradient_descent(kernel, errors, 0.1),
        outputs,
        selectors.top_k(),
        num_selected=2,
        num_steps=5,
        rng=KEY,
    )
    assert abs(state.outputs[2] - outputs[2]) > 0.01
    np.testing.assert_allclose(state.outputs[4], state.outputs[2])


# the closed form


@pytest.mark.parametrize("num_steps", [1, 30])
def test_closed_form_is_the_loop(num_steps):
    loop = descend(TO_POINTS, 0.2, START, num_steps)
    options = {"learning_rate": 0.2, "num_steps": num_steps}
    on_pool = predict_mse(POOL, START[:NUM_POOL], TARGETS, **options)
    np.testing.assert_allclose(on_pool, loop[:NUM_POOL], rtol=1e-10)
    on_points = predict_mse(
        POOL,
        START[:NUM_POOL],
        TARGETS,
        kernel_to_points=TO_POINTS,
        outputs_on_points=START,
        **options,
    )
    np.testing.assert_allclose(on_points, loop, rtol=1e-10)


def test_closed_form_takes_kernels_of_tokens_and_channels():
    kernel = empirical_ntk(mlp, trace_axes=())(MLP, POINTS1)
    outputs, targets = mlp(MLP, POINTS1), RNG.normal(size=(4, 2, 3))
    options = {"learning_rate": 0.01, "num_steps": 30}
    found = predict_mse(kernel, outputs, targets, **options)
    # the mean is over 4 examples, not over 4 · 2 · 3 outputs
    expected = descend(kernel, 0.01, outputs, 30, lambda f: f - targets)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_traced_kernel_is_predicted_in_each_channel_alone():
    traced = empirical_ntk(mlp)(MLP, POINTS1)
    outputs, targets = mlp(MLP, POINTS1), RNG.normal(size=(4, 2, 3))
    options = {"learning_rate": 0.01, "num_steps": 30}
    found = predict_mse(traced, outputs, targets, **options)
    for i in range(3):
        alone = predict_mse(traced, outputs[..., i], targets[..., i], **options)
        np.testing.assert_allclose(found[..., i], alone, rtol=1e-10)


def test_limit_reaches_the_targets():
    found = predict_mse(POOL, START[:NUM_POOL], TARGETS)
    np.testing.assert_allclose(found, TARGETS, rtol=1e-10)


@pytest.mark.parametrize("time", [0.7, None])
def test_small_steps_are_neural_tangents_gradient_flow(time):
    learning_rate = 1e-7
    flow = nt.predict.gradient_descent_mse(POOL, TARGETS[:, None], diag_reg=0.0)
    start = START[:, None]
    on_pool, on_tests = flow(
        time, start[:NUM_POOL], start[NUM_POOL:], ALL[NUM_POOL:, :NUM_POOL]
    )
    found = predict_mse(
        POOL,
        start[:NUM_POOL],
        TARGETS[:, None],
        learning_rate=learning_rate,
        num_steps=np.inf if time is None else time / learning_rate,
        kernel_to_points=TO_POINTS,
        outputs_on_points=start,
    )
    assert_equal(found, np.concatenate([on_pool, on_tests]), relative=1e-5)


@pytest.mark.parametrize("num_steps", [40, np.inf])
def test_directions_that_the_kernel_lacks_never_move(num_steps):
    seen: Any = np.array([[1.0, 2.0, 0.0, 2.0]]) / 3
    found = predict_mse(
        5 * seen.T @ seen, START[:NUM_POOL], TARGETS, num_steps=num_steps
    )
    moved = found - START[:NUM_POOL]
    # 1/λ of an eigenvalue that is rounding would throw them far away
    np.testing.assert_allclose(moved, (seen @ moved) * seen[0], atol=1e-12)
    np.testing.assert_allclose(seen @ found, seen @ TARGETS)


# teaching


def teach(select_fn, num_selected, rng=KEY):
    return teach_function(
        functional_gradient_descent(jnp.asarray(TO_POINTS), errors, 0.1),
        jnp.asarray(START),
        select_fn,
        num_selected=num_selected,
        num_steps=6,
        rng=rng,
    )


def test_teaching_all_examples_is_the_full_batch():
    state, _ = teach(selectors.uniform(), NUM_POOL)
    np.testing.assert_allclose(state.outputs, descend(TO_POINTS, 0.1, START, 6))
    assert state.step == 6


def test_greedy_teacher_picks_the_largest_residuals():
    state, gradients = teach(selectors.top_k(), 2)
    expected = START
    for gradient in gradients:
        residuals = expected[:NUM_POOL] - TARGETS
        np.testing.assert_allclose(gradient, residuals)  # before the step
        furthest = np.argsort(-np.abs(residuals))[:2]
        # the mean over the two: 1/2 each, not 1/4
        move = TO_POINTS[:, furthest] @ residuals[furthest] / 2
        expected = expected - 0.1 * move
    np.testing.assert_allclose(state.outputs, expected)
    assert state.step == len(gradients) == 6


def test_other_scores_may_choose():
    def least(gradient):
        return -jnp.abs(gradient)

    state, _ = teach_function(
        functional_gradient_descent(jnp.eye(4), errors, 1.0),
        jnp.asarray(START[:NUM_POOL]),
        selectors.top_k(),
        num_selected=1,
        num_steps=1,
        rng=KEY,
        score_fn=least,
    )
    taught = np.flatnonzero(state.outputs != START[:NUM_POOL])
    np.testing.assert_array_equal(taught, [np.argmin(np.abs(errors(START[:4])))])


def test_score_of_several_outputs_is_their_norm():
    targets = np.array([[3.0, 0.0], [2.5, 2.5]])  # largest entry first, norm second
    state, _ = teach_function(
        functional_gradient_descent(jnp.eye(2), lambda f: f - targets, 1.0),
        jnp.zeros((2, 2)),
        selectors.top_k(),
        num_selected=1,
        num_steps=1,
        rng=KEY,
    )
    np.testing.assert_array_equal(state.outputs, [[0.0, 0.0], [2.5, 2.5]])


def test_random_teaching_is_a_function_of_its_key():
    taught = jax.jit(lambda rng: teach(selectors.uniform(), 1, rng)[0].outputs)
    one, again, other = (taught(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


def test_random_teaching_draws_anew_at_every_step():
    # one example alone would be taught until it is learnt
    state, _ = teach_function(
        functional_gradient_descent(jnp.eye(4), errors, 1.0),
        jnp.asarray(START[:NUM_POOL]),
        selectors.uniform(),
        num_selected=1,
        num_steps=20,
        rng=KEY,
    )
    assert np.all(state.outputs != START[:NUM_POOL])


# beside the parameters


def pooled_attention(params, x):
    return attention(params, x).mean(axis=1)


def test_networks_linear_in_their_parameters_leave_no_residual():
    weights = RNG.normal(size=(5, 2))
    residual = consistency_residual(
        lambda params, x: jnp.sin(x) @ params,
        lambda f: f - 1,
        weights,
        FEATURES,
        learning_rate=0.5,
        points=FEATURES[:2],
    )
    assert residual < 1e-12


@pytest.mark.parametrize("points", [None, X[:1, ::-1] + 0.5], ids=["pool", "probe"])
def test_residual_halves_with_the_step(points):
    residual = jax.jit(
        lambda learning_rate: consistency_residual(
            pooled_attention, lambda f: f - 1, MULTI, X, learning_rate, points
        )
    )
    large, small = residual(2e-3), residual(1e-3)
    # one that is absolute would fall to a quarter
    assert 1e-5 < large < 1
    assert 0.45 < small / large < 0.55


@pytest.mark.parametrize(
    ("points", "expected"),
    [(None, 0.1), (np.array([[0.0, 1.0]]), 0.0)],
    ids=["pool", "probe"],
)
def test_residual_by_hand(points, expected):
    # On the pool f = w²: Δf = (w − η·2w·g)² − w² with g = w² at w = 1, −4η + 4η²
    # against −4η. On the point f = w: none.
    def apply_fn(w, x):
        return w**2 * x[:, 0] + w * x[:, 1]

    pool = jnp.array([[1.0, 0.0]] * 3)
    w = jnp.ones((), jnp.float64)
    residual = consistency_residual(apply_fn, lambda f: f, w, pool, 0.1, points)
    np.testing.assert_allclose(residual, expected, atol=1e-12)


def test_loss_falls_by_the_kernels_quadratic_form():
    targets = RNG.normal(size=(3, 5, 5))
    gradient = attention(MULTI, X) - targets

    @jax.jit
    def loss(params):
        return jnp.sum((attention(params, X) - targets) ** 2) / 2 / 3

    along = jax.grad(loss)(MULTI)

    def loss_after(learning_rate):
        moved = jax.tree.map(lambda leaf, way: leaf - learning_rate * way, MULTI, along)
        return loss(moved)

    kernel = attention_ntk(MULTI, X).total
    rate = -jnp.vdot(gradient, kernel_product(kernel, gradient)) / 3**2
    slope = (loss_after(1e-5) - loss_after(-1e-5)) / 2e-5
    np.testing.assert_allclose(slope, rate, rtol=1e-7)


def loss_rate(kernel) -> float:
    """dL/dη of half the mean squared error where ∂ℓ/∂f = 1 on every example."""
    num_examples = len(kernel)

    def loss_after(learning_rate):
        outputs = descend(kernel, learning_rate, jnp.ones(num_examples), 1, lambda f: f)
        return jnp.sum(outputs**2) / 2 / num_examples

    return float(jax.grad(loss_after)(0.0))


def test_proposition_4_holds_for_two_examples_and_fails_for_three():
    # The claim: dL/dη ≤ −(γ/2)(mean of ∂L/∂f)², γ = sup K: −1/2 here.
    claim = -0.5
    assert loss_rate(np.eye(2)) == pytest.approx(claim)
    assert loss_rate(np.eye(3)) == pytest.approx(-1 / 3)
    assert loss_rate(np.eye(3)) > claim


def test_proposition_4_holds_where_all_examples_move_together():
    assert loss_rate(np.ones((3, 3))) == pytest.approx(-1.0)


def test_traced_kernel_descends_like_its_full_form():
    traced = empirical_ntk(mlp)(MLP, POINTS1, POINTS2)
    full = jnp.einsum("nmst,cd->nmstcd", traced, jnp.eye(3))
    outputs = RNG.normal(size=(4, 2, 3))
    found, expected = (
        descend(kernel, 0.1, outputs, 1, lambda f: f[:3]) for kernel in (traced, full)
    )
    np.testing.assert_allclose(found, expected)
