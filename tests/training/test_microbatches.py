"""Gradients accumulated over microbatches are the whole batch's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from attent_jax.distributed import batch_sharding, make_mesh
from attent_jax.training import TrainInfo, init_train_state, make_train_step
from tests.training.learners import assert_close

OPTIMIZER = optax.sgd(0.1)
NUM_ROWS = 12
X = np.random.default_rng(0).normal(size=(NUM_ROWS, 3)).astype(np.float32)
BATCH = {"x": X, "y": np.tanh(X[:, 0])}
PARAMS = {"w": jnp.array([0.5, -1.0, 2.0]), "frozen": jnp.ones(())}


def loss_fn(params, rng, batch):
    outputs = params["frozen"] * (batch["x"] @ params["w"])
    return jnp.log(jnp.cosh(outputs - batch["y"]))


def step_of(num_microbatches, loss_fn=loss_fn, **options):
    return make_train_step(
        loss_fn,
        OPTIMIZER,
        num_microbatches=num_microbatches,
        trainable=lambda path: path == "w",
        **options,
    )


def start(params=PARAMS):
    return init_train_state(params, OPTIMIZER, trainable=lambda path: path == "w")


STEPS = {count: step_of(count) for count in (1, 2, 3, 4, 6, 12)}


@settings(max_examples=15)
@given(
    st.sampled_from([2, 3, 4, 6, 12]),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=12, max_size=12),
)
def test_the_weighted_mean_is_exact(num_microbatches, weights):
    """Means of the parts' means would weigh rows of light parts more."""
    weights = jnp.array(weights)
    expected, expected_info = STEPS[1](start(), None, BATCH, weights)
    state, info = STEPS[num_microbatches](start(), None, BATCH, weights)
    assert_close((state, tuple(info)), (expected, tuple(expected_info)), 1e-5)
    assert info.losses.shape == (NUM_ROWS,)


def test_equals_the_whole_batch_to_1e_12_in_float64():
    with jax.enable_x64(True):
        params = {"w": np.array([0.5, -1.0, 2.0]), "frozen": np.float64(1)}
        batch = jax.tree.map(lambda leaf: leaf.astype(np.float64), BATCH)
        weights = np.linspace(0, 2, NUM_ROWS)
        steps = [step_of(count) for count in (1, 4)]
        whole, parts = (step(start(params), None, batch, weights) for step in steps)
        assert whole[1].loss.dtype == jnp.float64
        np.testing.assert_allclose(parts[1].loss, whole[1].loss, rtol=1e-13)
        assert_close(parts[0], whole[0], 1e-12)


def test_sums_are_not_rounded_to_bfloat16():
    """In bfloat16, 256 + 1 is 256."""
    values = np.ones((1024, 1), np.float32)
    params = {"w": jnp.ones(1, jnp.bfloat16), "frozen": jnp.ones(())}

    def linear(params, rng, batch):
        return batch @ params["w"].astype(jnp.float32) * 1024

    step = step_of(1024, linear)
    _, info = step(start(params), None, values, jnp.ones(1024))
    assert float(info.grad_norm) == pytest.approx(1024)
    assert info.grad_norm.dtype == jnp.float32


def test_randomness_differs_between_the_parts_and_follows_the_key():
    def noise(params, rng, batch):
        return jax.random.uniform(rng, (len(batch["y"]),)) + 0 * params["w"][0]

    step = step_of(3, noise)
    weights = jnp.ones(NUM_ROWS)
    draws = [
        step(start(), jax.random.key(seed), BATCH, weights)[1].losses.tolist()
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == NUM_ROWS


def test_aux_comes_back_in_the_batchs_order_or_stacked():
    def with_aux(params, rng, batch):
        losses = loss_fn(params, rng, batch)
        return losses, {"y": batch["y"], "x": batch["x"], "mean": jnp.mean(losses)}

    step = step_of(3, with_aux, has_aux=True)
    _, info = step(start(), None, BATCH, jnp.ones(NUM_ROWS))
    np.testing.assert_array_equal(info.aux["y"], BATCH["y"])
    np.testing.assert_array_equal(info.aux["x"], BATCH["x"])
    assert info.aux["mean"].shape == (3,)
    np.testing.assert_allclose(jnp.mean(info.aux["mean"]), info.loss, rtol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_equals_the_whole_batch_under_shard_map(check_vma):
    mesh = make_mesh(devices=jax.devices()[:2])
    whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names)
    info_specs: Any = (whole, split, whole, whole, whole)
    step = jax.jit(
        jax.shard_map(
            step_of(3, axis_name=mesh.axis_names),
            mesh=mesh,
            in_specs=(whole, whole, split, split),
            out_specs=(whole, TrainInfo(*info_specs)),
            check_vma=check_vma,
        )
    )
    weights = jnp.linspace(0, 2, NUM_ROWS)
    state, info = step(start(), None, BATCH, weights)
    expected, expected_info = STEPS[1](start(), None, BATCH, weights)
    assert_close(state, expected, 1e-5)
    assert_close(info.losses, expected_info.losses, 1e-5)
    assert_close(info.loss, expected_info.loss, 1e-5)


def test_equals_the_whole_batch_under_jit_on_a_mesh():
    split = batch_sharding(make_mesh(devices=jax.devices()[:4]))
    weights = jnp.linspace(0, 2, NUM_ROWS)
    placed = jax.device_put((BATCH, weights), split)
    state, info = STEPS[3](start(), None, *placed)
    expected, expected_info = STEPS[1](start(), None, BATCH, weights)
    assert_close(state, expected, 1e-5)
    assert_close(tuple(info), tuple(expected_info), 1e-5)


def test_only_one_microbatch_of_residuals_is_held():
    width = 64

    def deep(params, rng, batch):
        for layer in params:
            batch = jnp.tanh(batch @ layer)
        return jnp.sum(batch, axis=-1)

    def temporary_bytes(num_microbatches):
        params = [jax.ShapeDtypeStruct((width, width), jnp.float32)] * 8
        step: Any = make_train_step(deep, OPTIMIZER, num_microbatches=num_microbatches)
        state = jax.eval_shape(
            lambda: init_train_state(
                [jnp.ones((width, width))] * len(params), OPTIMIZER
            )
        )
        batch = jax.ShapeDtypeStruct((4096, width), jnp.float32)
        weights = jax.ShapeDtypeStruct((4096,), jnp.float32)
        compiled = step.lower(state, None, batch, weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    residuals = 8 * 4096 * width * 4
    assert temporary_bytes(1) > residuals
    batch = 4096 * width * 4  # its rows are laid out again by microbatch
    assert temporary_bytes(8) < residuals / 8 + 3 * batch


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="num_microbatches=5 does not divide"):
        step_of(5)(start(), None, BATCH, jnp.ones(NUM_ROWS))
    with pytest.raises(ValueError, match="num_microbatches must be at least 1, got 0"):
        step_of(0)
    with pytest.raises(TypeError, match="num_microbatches must be an integer"):
        step_of(2.5)
