"""No device of a mesh does another's work: FLOPs of the train steps, as XLA counts."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import selectors
from attent_jax.distributed import (
    batch_sharding,
    fsdp_shardings,
    make_mesh,
    replicated,
)
from attent_jax.training import (
    init_train_state,
    make_selective_train_step,
    make_train_step,
)

NUM_ROWS, NUM_TOKENS, WIDTH = 64, 16, 64
OPTIMIZER = optax.sgd(0.1)
TOLERANCE = 1.05

num_devices = pytest.mark.parametrize(
    "num_devices", [2, pytest.param(4, marks=pytest.mark.slow), 8]
)
ratio = pytest.mark.parametrize("ratio", [0.25, 0.5])
both_ways = pytest.mark.parametrize(
    "reuse_forward", [False, True], ids=["two passes", "re-use"]
)


def loss_fn(params, rng, batch):
    hidden = batch["x"] + params["b"][None]  # or layer 1 has half a backward pass
    for weights in params["w"]:
        hidden = hidden + jnp.tanh(hidden @ weights)
    return jnp.mean((hidden - batch["y"]) ** 2, axis=(1, 2))


def make_params():
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(2, WIDTH, WIDTH)) / WIDTH**0.5
    return {
        "w": [jnp.asarray(layer, jnp.float32) for layer in weights],
        "b": jnp.zeros((NUM_TOKENS, WIDTH)),
    }


def make_batch():
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(2, NUM_ROWS, NUM_TOKENS, WIDTH)).astype(np.float32)
    return {"x": x, "y": y}


def compile_on(num_devices, make_step, *, fsdp=False):
    """The step, its state replicated or split, its batch split over the devices."""
    mesh = make_mesh(
        fsdp=num_devices if fsdp else 1, devices=jax.devices()[:num_devices]
    )
    split = batch_sharding(mesh)
    state = jax.eval_shape(lambda: init_train_state(make_params(), OPTIMIZER))
    layout = (
        fsdp_shardings(mesh, state, min_size=1)
        if fsdp
        else jax.tree.map(lambda _: replicated(mesh), state)
    )

    def placed(tree, shardings):
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            tree,
            jax.tree.broadcast(shardings, tree),
        )

    batch = placed((make_batch(), np.ones(NUM_ROWS, np.float32)), split)
    return make_step(split).lower(placed(state, layout), None, *batch).compile()


def flops_of(compiled) -> float:
    return (compiled.cost_analysis() or {})["flops"]


@cache
def full_flops() -> float:
    return flops_of(compile_on(1, lambda _: make_train_step(loss_fn, OPTIMIZER)))


def moves_rows(compiled) -> bool:
    text = compiled.as_text()
    moves = ("all-gather", "all-to-all", "collective-permute")
    return any(f" {move}(" in text or f" {move}-start(" in text for move in moves)


@pytest.mark.parametrize("fsdp", [False, True], ids=["replicated", "fsdp"])
@pytest.mark.parametrize("num_devices", [2, 8])
def test_a_train_step_is_divided(num_devices, fsdp):
    compiled = compile_on(
        num_devices, lambda _: make_train_step(loss_fn, OPTIMIZER), fsdp=fsdp
    )
    assert flops_of(compiled) * num_devices < TOLERANCE * full_flops()


@pytest.mark.parametrize("fsdp", [False, True], ids=["replicated", "fsdp"])
def test_each_microbatch_is_divided(fsdp):
    # contiguous parts of the batch would lie on two of the eight devices each
    compiled = compile_on(
        8,
        lambda _: make_train_step(loss_fn, OPTIMIZER, num_microbatches=4),
        fsdp=fsdp,
    )
    in_scan = 4 * flops_of(compiled)  # XLA counts the scan's body once
    outside = 3 * flops_of(compile_update(fsdp))
    assert (in_scan - outside) * 8 < TOLERANCE * full_flops()
    if not fsdp:
        assert not moves_rows(compiled)


@cache
def compile_update(fsdp):
    """A step whose gradient costs nothing."""

    def no_loss(params, rng, batch):
        of_params = sum(jnp.sum(0 * leaf) for leaf in jax.tree.leaves(params))
        return batch["y"][:, 0, 0] + of_params

    return compile_on(8, lambda _: make_train_step(no_loss, OPTIMIZER), fsdp=fsdp)


def selective_step(num_selected, num_groups, reuse_forward, sharding=None):
    return make_selective_train_step(
        loss_fn,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=num_selected,
        num_groups=num_groups,
        reuse_forward=reuse_forward,
        sharding=sharding,
    )


def model_flops(ratio, reuse_forward) -> float:
    return (1 + (2 if reuse_forward else 3) * ratio) / 3 * full_flops()


@both_ways
@ratio
@num_devices
def test_selection_in_groups_is_divided_and_moves_no_row(
    num_devices, ratio, reuse_forward
):
    compiled = compile_on(
        num_devices,
        lambda _: selective_step(int(ratio * NUM_ROWS), num_devices, reuse_forward),
    )
    flops = flops_of(compiled) * num_devices
    assert flops < TOLERANCE * model_flops(ratio, reuse_forward)
    assert not moves_rows(compiled)


@ratio
@num_devices
def test_a_global_selection_in_two_passes_is_divided(num_devices, ratio):
    compiled = compile_on(
        num_devices,
        lambda split: selective_step(int(ratio * NUM_ROWS), 1, False, split),
    )
    flops = flops_of(compiled) * num_devices
    assert flops < TOLERANCE * model_flops(ratio, reuse_forward=False)


@both_ways
def test_selection_in_groups_is_the_same_on_eight_devices(reuse_forward):
    split = batch_sharding(make_mesh())
    state = init_train_state(make_params(), OPTIMIZER)
    batch, weights = make_batch(), np.ones(NUM_ROWS, np.float32)
    weights[::5] = 0
    step = make_selective_train_step(
        loss_fn,
        OPTIMIZER,
        selectors.gumbel_top_k(0.1),
        num_selected=16,
        num_groups=8,
        reuse_forward=reuse_forward,
    )
    key = jax.random.key(0)
    alone, expected = step(state, key, batch, weights)
    together, info = step(state, key, *jax.device_put((batch, weights), split))
    assert info.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(info.losses, expected.losses, rtol=1e-5)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6),
        together.params,
        alone.params,
    )
