"""Optimizers that ask for more than the gradient, in both train steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import selectors
from attent_jax.training import (
    init_train_state,
    make_selective_train_step,
    make_train_step,
)

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
WEIGHTS = np.array([1, 0.5, 2, 0, 1, 0.25], np.float32)


def loss_fn(params, rng, batch):
    return (batch @ params - 1) ** 2 / 2


def full_step(optimizer):
    return make_train_step(loss_fn, optimizer)


def selective_step(optimizer):
    return make_selective_train_step(
        loss_fn, optimizer, selectors.top_k(), num_selected=6
    )


both_steps = pytest.mark.parametrize("make_step", [full_step, selective_step])


def mean_loss(params):
    return jnp.sum(loss_fn(params, None, X) * WEIGHTS) / WEIGHTS.sum()


@both_steps
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.polyak_sgd(),
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)),
    ],
    ids=["polyak_sgd", "reduce_on_plateau"],
)
def test_the_weighted_mean_loss_is_given_as_value(optimizer, make_step):
    step = make_step(optimizer)
    params: Any = jnp.array([1.0, -1.0, 0.5])
    state, opt_state = init_train_state(params, optimizer), optimizer.init(params)
    types = jax.tree.map(jax.typeof, state)
    for _ in range(4):
        state, _ = step(state, None, X, WEIGHTS)
        value, grads = jax.value_and_grad(mean_loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types
            updates, opt_state = optimizer.update(grads, opt_state, params, value=value)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(state.params, params, rtol=1e-4)
    assert jax.tree.map(jax.typeof, state) == types


def test_a_plateau_lowers_the_rate():
    """On a loss of NaN, or of a batch's first row, it would lower it at other steps."""
    optimizer = optax.chain(
        optax.sgd(0.0), optax.contrib.reduce_on_plateau(patience=2, factor=0.5)
    )
    step = full_step(optimizer)
    state = init_train_state(jnp.ones(3), optimizer)
    scales = []
    for _ in range(6):
        state, _ = step(state, None, X, WEIGHTS)
        plateau: Any = state.opt_state
        scales.append(float(plateau[1].scale))
    assert scales == [1, 1, 0.5, 0.5, 0.25, 0.25]


@both_steps
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(3)),
        optax.chain(optax.sgd(0.1), optax.scale_by_zoom_linesearch(3)),
    ],
    ids=["lbfgs", "backtracking", "zoom"],
)
def test_line_searches_are_refused_with_the_remedy(optimizer, make_step):
    state = init_train_state(jnp.ones(3), optimizer)
    with pytest.raises(
        TypeError, match=r"needs value_fn .* without a line search, e.g"
    ):
        make_step(optimizer)(state, None, X, WEIGHTS)


def test_lbfgs_without_a_line_search_is_an_optimizer_like_others():
    optimizer = optax.lbfgs(0.1, linesearch=None)
    state, step = init_train_state(jnp.ones(3), optimizer), full_step(optimizer)
    losses = []
    for _ in range(10):
        state, info = step(state, None, X, WEIGHTS)
        losses.append(float(info.loss))
    assert losses[-1] < 0.7 * losses[0]


def reusing_step(optimizer):
    return make_selective_train_step(
        loss_fn, optimizer, selectors.top_k(), num_selected=4, reuse_forward=True
    )


def accumulating_step(optimizer):
    return make_train_step(loss_fn, optimizer, num_microbatches=3)


@pytest.mark.parametrize(
    "make_step", [full_step, accumulating_step, selective_step, reusing_step]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_steps_work_under_strict_promotion_and_checks(make_step, dtype):
    optimizer = optax.adamw(optax.cosine_decay_schedule(0.1, 10))  # optax mixes types
    with (
        jax.enable_x64(dtype == "float64"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
        jax.checking_leaks(),
    ):
        state = init_train_state(jnp.ones(3, dtype), optimizer)
        types = jax.tree.map(jax.typeof, state)
        step, batch = make_step(optimizer), X.astype(jnp.dtype(dtype))
        state, _ = step(state, None, batch, WEIGHTS)
        # a row of weight 0 is NaN to the selector, which no check may see
        state, info = step(state, None, batch, WEIGHTS)
        assert jax.tree.map(jax.typeof, state) == types
        assert info.loss.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
        scores = getattr(info, "scores", info.losses)
        assert bool(jnp.all(jnp.isfinite(scores)))


@pytest.mark.parametrize(
    "optimizer",
    [selectors.top_k(), optax.adam, None, "adam"],
    ids=["a selector", "a factory", "None", "a name"],
)
def test_what_is_no_optimizer_is_refused(optimizer):
    message = r"optimizer must be an optax.GradientTransformation, got .*optax.adam\("
    for make in (full_step, selective_step):
        with pytest.raises(TypeError, match=message):
            make(optimizer)
    with pytest.raises(TypeError, match=message):
        init_train_state(jnp.ones(2), optimizer)
