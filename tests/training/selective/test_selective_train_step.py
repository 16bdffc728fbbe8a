"""The selective step: padding, shards, and steps that are not finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attent_jax import selectors
from attent_jax.training import (
    init_train_state,
    make_selective_train_step,
    make_train_step,
)
from tests.training.learners import assert_close, scan_over_layers

OPTIMIZER = optax.sgd(0.01, momentum=0.9)
NUM_SHARDS, PER_SHARD = 2, 6

both_ways = pytest.mark.parametrize(
    "reuse_forward", [False, True], ids=["two passes", "re-use"]
)


def repeated(batch):
    """Two shards' worth of examples, none of them twice."""
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, -2 * leaf]), batch)


@both_ways
def test_equals_a_plain_step_on_the_rows_it_names(reuse_forward):
    learner = scan_over_layers()
    step = make_selective_train_step(
        learner.loss_fn,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=3,
        reuse_forward=reuse_forward,
    )
    plain = make_train_step(learner.loss_fn, OPTIMIZER)
    state = expected = init_train_state(learner.params, OPTIMIZER)
    for _ in range(3):
        state, info = step(state, None, learner.batch, jnp.ones(6))
        rows = jax.tree.map(lambda leaf: leaf[info.indices], learner.batch)  # noqa: B023
        expected, expected_info = plain(expected, None, rows, jnp.ones(3))
        assert_close(state, expected)
        assert_close(info.loss, expected_info.loss)
        assert_close(info.grad_norm, expected_info.grad_norm)
        assert not info.is_skipped


@both_ways
def test_padding_is_selected_last_and_counts_nothing(reuse_forward):
    learner = scan_over_layers()
    losses = learner.loss_fn(learner.params, None, learner.batch)
    hardest = int(jnp.argmax(losses))
    weights = jnp.ones(6).at[hardest].set(0)
    step = make_selective_train_step(
        learner.loss_fn,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=6,
        reuse_forward=reuse_forward,
    )
    state = init_train_state(learner.params, OPTIMIZER)
    stepped, info = step(state, None, learner.batch, weights)
    expected, _ = make_train_step(learner.loss_fn, OPTIMIZER)(
        state, None, learner.batch, weights
    )
    assert_close(stepped, expected)
    assert float(info.scores[hardest]) == pytest.approx(float(losses[hardest]))
    few = make_selective_train_step(
        learner.loss_fn, OPTIMIZER, selectors.top_k(), num_selected=5
    )
    _, info = few(state, None, learner.batch, weights)
    assert hardest not in info.indices.tolist()


@both_ways
def test_aux_comes_back_for_the_selected_rows(reuse_forward):
    learner = scan_over_layers()

    def with_aux(params, rng, batch):
        losses = learner.loss_fn(params, rng, batch)
        return losses, {"target": batch[1], "twice": 2 * losses}

    step = make_selective_train_step(
        with_aux,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=2,
        num_groups=2,
        has_aux=True,
        reuse_forward=reuse_forward,
    )
    state = init_train_state(learner.params, OPTIMIZER)
    _, info = step(state, None, learner.batch, jnp.ones(6))
    np.testing.assert_array_equal(info.aux["target"], learner.batch[1][info.indices])
    np.testing.assert_allclose(info.aux["twice"], 2 * info.losses, rtol=1e-6)


def with_masks_and_norms():
    """As real models have them: values that no shard marks as its own."""
    learner = scan_over_layers()

    def loss_fn(params, rng, batch):
        (x,), y = batch
        hidden = jax.nn.relu(x @ params[0])
        hidden = (hidden - jnp.mean(hidden, -1, keepdims=True)) * jnp.ones_like(hidden)
        return jnp.sum(jnp.where(y > -1, hidden - y, 0) ** 2, axis=-1)

    return learner._replace(loss_fn=loss_fn)


def sharded_step(learner, reuse_forward, mesh):
    replicated, split = PartitionSpec(), PartitionSpec("data")
    step = make_selective_train_step(
        learner.loss_fn,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=2,
        reuse_forward=reuse_forward,
        axis_name="data",
    )
    info: Any = (replicated, split, split, split, replicated, replicated, None)
    return jax.jit(
        jax.shard_map(
            lambda *arguments: tuple(map(tuple, step(*arguments))),
            mesh=mesh,
            in_specs=(replicated, replicated, split, split),
            out_specs=((replicated, replicated, replicated), info),
        )
    )


@both_ways
@pytest.mark.parametrize("build", [scan_over_layers, with_masks_and_norms])
def test_each_shard_selects_its_own_rows_under_shard_map(build, reuse_forward):
    learner = build()
    batch = repeated(learner.batch)
    # the second shard's weights are lower: its rows count less in the global mean
    weights = jnp.repeat(jnp.array([1.0, 0.25]), PER_SHARD)
    mesh = jax.make_mesh(
        (NUM_SHARDS,),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:NUM_SHARDS],
    )
    state = init_train_state(learner.params, OPTIMIZER)
    step = sharded_step(learner, reuse_forward, mesh)
    stepped, info = step(state, None, batch, weights)
    indices = np.asarray(info[2]).reshape(NUM_SHARDS, 2)
    rows = (indices + PER_SHARD * np.arange(NUM_SHARDS)[:, None]).reshape(-1)
    losses = np.asarray(learner.loss_fn(learner.params, None, batch))
    for shard in range(NUM_SHARDS):
        own = losses[shard * PER_SHARD :][:PER_SHARD]
        assert set(indices[shard]) == set(np.argsort(-own)[:2])
    expected, expected_info = make_train_step(learner.loss_fn, OPTIMIZER)(
        state, None, jax.tree.map(lambda leaf: leaf[rows], batch), weights[rows]
    )
    assert_close(stepped[1], expected.params)
    assert_close(info[0], expected_info.loss)
    compiled = step.lower(state, None, batch, weights).compile().as_text() or ""
    assert "all-gather" not in compiled  # no activation moves
    assert "all-to-all" not in compiled


@both_ways
def test_the_selection_is_global_under_jit_on_a_mesh(reuse_forward):
    learner = scan_over_layers()
    batch = repeated(learner.batch)
    mesh = jax.make_mesh(
        (4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]
    )
    split = NamedSharding(mesh, PartitionSpec("data"))
    step = make_selective_train_step(
        learner.loss_fn,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=4,
        reuse_forward=reuse_forward,
    )
    state = init_train_state(learner.params, OPTIMIZER)
    expected, expected_info = step(state, None, batch, jnp.ones(12))
    placed, weights = jax.device_put((batch, jnp.ones(12)), split)
    sharded, info = step(state, None, placed, weights)
    assert set(info.indices.tolist()) == set(expected_info.indices.tolist())
    assert_close(sharded, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("selective", [False, True])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counter(value, selective):
    learner = scan_over_layers()
    (x,), y = learner.batch
    step = (
        make_selective_train_step(
            learner.loss_fn, OPTIMIZER, selectors.top_k(), num_selected=6
        )
        if selective
        else make_train_step(learner.loss_fn, OPTIMIZER)
    )
    state = init_train_state(learner.params, OPTIMIZER)
    good, info = step(state, None, learner.batch, jnp.ones(6))
    assert not info.is_skipped
    bad = ((x,), y.at[2, 1].set(value))
    after, info = step(good, None, bad, jnp.ones(6))
    assert info.is_skipped
    assert int(after.step) == int(good.step) + 1
    jax.tree.map(
        np.testing.assert_array_equal,
        (after.params, after.opt_state),
        (good.params, good.opt_state),
    )
    again, info = step(after, None, learner.batch, jnp.ones(6))
    assert not info.is_skipped
    assert bool(jnp.any(again.params != after.params))


def test_a_finite_loss_with_an_infinite_gradient_is_skipped_too():
    step = make_train_step(
        lambda w, rng, batch: jnp.sqrt(jnp.abs(w * batch)), optax.sgd(0.1)
    )
    state = init_train_state(jnp.array(1.0), optax.sgd(0.1))
    after, info = step(state, None, jnp.array([0.0, 1.0]), jnp.ones(2))
    assert bool(jnp.isfinite(info.loss))
    assert info.is_skipped
    assert float(after.params) == 1.0


def test_gradients_that_only_overflow_squared_are_not_skipped():
    # 300² is beyond float16
    step = make_train_step(lambda w, rng, batch: w * batch, optax.sgd(0.001))
    state = init_train_state(jnp.array(1.0, jnp.float16), optax.sgd(0.001))
    after, info = step(state, None, jnp.full(2, 300.0, jnp.float16), jnp.ones(2))
    assert not info.is_skipped
    assert float(info.grad_norm) == pytest.approx(300, rel=1e-2)
    assert float(after.params) == pytest.approx(0.7, rel=1e-2)


def test_a_batch_of_padding_alone_is_no_division_by_zero():
    learner = scan_over_layers()
    step = make_selective_train_step(
        learner.loss_fn, optax.sgd(0.1), selectors.top_k(), num_selected=3
    )
    state = init_train_state(learner.params, optax.sgd(0.1))
    after, info = step(state, None, learner.batch, jnp.zeros(6))
    assert float(info.loss) == 0
    np.testing.assert_array_equal(after.params, state.params)
