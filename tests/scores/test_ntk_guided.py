"""The kernel times the functional gradient, against explicit Jacobians."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_jax import distributed
from attent_jax.models import Siren
from attent_jax.scores import ntk_guided
from attent_jax.scores._row_chunks import RowChunks

NUM_EXAMPLES, NUM_POSITIONS, NUM_INPUTS, NUM_OUTPUTS = 7, 3, 4, 2
_draw = np.random.default_rng(0)
PARAMS = {
    "w": _draw.normal(size=(NUM_INPUTS, 5)),
    "v": _draw.normal(size=(5, NUM_OUTPUTS)),
    "bias": _draw.normal(size=NUM_OUTPUTS),
}
MASK = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]] * 2)
BATCH = {
    "x": _draw.normal(size=(NUM_EXAMPLES, NUM_POSITIONS, NUM_INPUTS)),
    "targets": _draw.normal(size=(NUM_EXAMPLES, NUM_POSITIONS, NUM_OUTPUTS)),
    "mask": MASK[:NUM_EXAMPLES].astype(bool),
}
HEAD = {"w": False, "v": True, "bias": True}


def mask_of(batch):
    return batch["mask"]


def tokens_of(params, rng, batch):
    hidden = jnp.tanh(jnp.einsum("bsi,ih->bsh", batch["x"], params["w"]))
    return jnp.einsum("bsh,ho->bso", hidden, params["v"]) + params["bias"][None, None]


def token_losses(outputs, batch):
    return jnp.sum(jnp.cosh(outputs - batch["targets"]), axis=-1)


def first_token(params, rng, batch):
    return tokens_of(params, rng, batch)[:, 0]


def first_token_loss(outputs, batch):
    return jnp.sum(jnp.cosh(outputs - batch["targets"][:, 0]), axis=-1)


def scalar(params, rng, batch):
    return tokens_of(params, rng, batch)[:, 0, 0]


def scalar_loss(outputs, batch):
    return jnp.cosh(outputs - batch["targets"][:, 0, 0])


OUTPUTS = {
    "one output": (scalar, scalar_loss),
    "several outputs": (first_token, first_token_loss),
    "outputs per token": (tokens_of, token_losses),
}


def in_float64(tree):
    return jax.tree.map(jnp.asarray, tree)


def explicit(apply_fn, losses, params, batch, trained=("w", "v", "bias"), mask=None):
    """‖(K g)_i‖ of a kernel that is formed, of float64 Jacobians; NumPy after those."""
    jacobians = jax.jacobian(lambda p: apply_fn(p, None, batch))(params)
    outputs = np.asarray(apply_fn(params, None, batch))
    columns = [
        np.asarray(jacobians[name]).reshape(outputs.size, -1) for name in trained
    ]
    jacobian = np.concatenate(columns, axis=1)
    weights = np.ones(outputs.shape)
    if mask is not None:
        per_position = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        weights = np.broadcast_to(per_position[..., None], outputs.shape)
    # of the sum of the losses: cosh by hand
    targets = np.asarray(batch["targets"]).reshape(len(outputs), -1)
    targets = targets[:, : outputs[0].size].reshape(outputs.shape)
    gradient = weights * np.sinh(outputs - targets) / len(outputs)
    moved = (jacobian @ jacobian.T @ gradient.ravel()).reshape(outputs.shape)
    squares = (moved.reshape(len(outputs), outputs[0].size) ** 2).sum(axis=1)
    if mask is not None:
        per_token = (moved**2).sum(axis=-1)
        squares = (mask * per_token).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    return np.sqrt(squares)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4, 7, 100])
@pytest.mark.parametrize("trainable", [True, HEAD], ids=["all", "head"])
@pytest.mark.parametrize("name", [*OUTPUTS, "masked tokens"])
def test_it_is_the_explicit_kernel_times_the_gradient(name, trainable, chunk_size):
    is_masked = name == "masked tokens"
    apply_fn, losses = OUTPUTS["outputs per token" if is_masked else name]
    mask_fn = mask_of if is_masked else None
    with jax.enable_x64(True):
        params, batch = in_float64((PARAMS, BATCH))
        score = ntk_guided(
            apply_fn,
            losses,
            mask_fn=mask_fn,
            trainable=trainable,
            chunk_size=chunk_size,
        )
        found = jax.jit(score)(params, None, batch)
        assert found.dtype == jnp.float64
        expected = explicit(
            apply_fn,
            losses,
            params,
            batch,
            trained=("v", "bias") if trainable is HEAD else ("w", "v", "bias"),
            mask=BATCH["mask"] if is_masked else None,
        )
        assert len(set(expected.round(6).tolist())) == NUM_EXAMPLES
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_of_a_siren_too():
    model: Any = Siren(2, width=8, num_layers=2)
    draw = np.random.default_rng(1)
    with jax.enable_x64(True):
        places = jnp.asarray(draw.uniform(-1, 1, (9, 2)))
        targets = jnp.asarray(draw.normal(size=(9, 2)))
        params = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64),
            model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.float32)),
        )
        batch = {"x": places, "targets": targets}

        def apply_fn(params, rng, batch):
            return model.apply(params, batch["x"])

        def half_squared_error(outputs, batch):
            return jnp.sum((outputs - batch["targets"]) ** 2, axis=-1) / 2

        @jax.jit
        def moved(params):
            jacobian = jnp.concatenate(
                [
                    leaf.reshape(18, -1)
                    for leaf in jax.tree.leaves(
                        jax.jacobian(lambda p: apply_fn(p, None, batch))(params)
                    )
                ],
                axis=1,
            )
            gradient = (apply_fn(params, None, batch) - targets).ravel() / 9
            return (jacobian @ (jacobian.T @ gradient)).reshape(9, 2)

        expected = np.linalg.norm(moved(params), axis=1)
        for chunk_size in (None, 4):
            score = ntk_guided(apply_fn, half_squared_error, chunk_size=chunk_size)
            found = jax.jit(score)(params, None, batch)
            np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("filling", [1e9, np.inf, np.nan])
def test_padding_is_not_read(chunk_size, filling):
    batch = jax.tree.map(jnp.asarray, BATCH)
    batch["targets"] = jnp.where(batch["mask"][..., None], batch["targets"], filling)
    score = jax.jit(
        ntk_guided(tokens_of, token_losses, mask_fn=mask_of, chunk_size=chunk_size)
    )
    params = jax.tree.map(jnp.asarray, PARAMS)
    found = score(params, None, batch)
    np.testing.assert_allclose(
        found, score(params, None, jax.tree.map(jnp.asarray, BATCH)), rtol=1e-6
    )
    assert found[2] == 0.0  # without a valid position


def test_chunks_of_several_sizes_run_inside_a_scan():
    params = jax.tree.map(jnp.asarray, PARAMS)
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), BATCH)
    chunked = ntk_guided(tokens_of, token_losses, chunk_size=2)
    whole = ntk_guided(tokens_of, token_losses)

    @jax.jit
    def scanned(batches):
        def step(_, batch):
            return None, (chunked(params, None, batch), whole(params, None, batch))

        return jax.lax.scan(step, None, batches)[1]

    found, expected = scanned(batches)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(found[0], found[1][::-1], rtol=1e-5)


def test_the_chunks_of_half_precision_are_added_in_float32():
    size = 512
    score = ntk_guided(
        lambda w, rng, batch: batch * w, lambda f, batch: f, chunk_size=1
    )
    found = jax.jit(score)(jnp.bfloat16(1), None, jnp.ones(size, jnp.bfloat16))
    # a sum in bfloat16 stops where the next addend is half of its last place
    np.testing.assert_allclose(np.asarray(found, np.float32), np.ones(size), rtol=0.01)


@given(
    num_examples=st.integers(1, 300),
    max_size=st.integers(1, 400),
    num_devices=st.sampled_from([1, 2, 3, 8]),
)
def test_chunks_are_few_and_divide(num_examples, max_size, num_devices):
    num_examples, max_size = num_devices * num_examples, num_devices * max_size
    chunks = RowChunks.of(num_examples, max_size)
    assert chunks.num_chunks == math.ceil(num_examples / max_size)
    assert chunks.size <= max_size
    assert chunks.size % num_devices == 0
    rows = np.arange(chunks.size * chunks.num_chunks).reshape(
        chunks.size, chunks.num_chunks
    )
    assert (rows < num_examples).any(axis=0).all()  # no chunk of padding alone


def flops(program, *arguments) -> float:
    return (program.lower(*arguments).compile().cost_analysis() or {})["flops"]


def test_uneven_chunks_of_a_split_batch_are_divided():
    mesh = distributed.make_mesh()
    score = jax.jit(
        ntk_guided(
            lambda params, rng, batch: jnp.tanh(batch @ params["w"]) @ params["v"],
            lambda outputs, batch: jnp.sum(outputs**2, axis=-1),
            chunk_size=64,
        )
    )
    draw = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(draw.normal(size=(8, 16)), jnp.float32),
        "v": jnp.asarray(draw.normal(size=(16, 8)), jnp.float32),
    }
    # 3 chunks of 56 rows, 8 of them padding
    batch = jnp.asarray(draw.normal(size=(160, 8)), jnp.float32)
    assert RowChunks.of(160, 64) == RowChunks(160, 3, 64)
    split = jax.device_put(batch, distributed.batch_sharding(mesh))
    whole = jax.device_put(params, distributed.replicated(mesh))
    found = score(whole, None, split)
    np.testing.assert_allclose(found, score(params, None, batch), rtol=1e-4)
    of_all = mesh.size * flops(score, whole, None, split)
    # every device adds up all gradients: about as much as a fiftieth of its rows
    assert of_all / flops(score, params, None, batch) == pytest.approx(1, abs=0.06)


def test_a_chunk_size_is_at_least_1():
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        ntk_guided(scalar, scalar_loss, chunk_size=0)
