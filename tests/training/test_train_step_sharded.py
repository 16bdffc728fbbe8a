"""The step on eight devices equals the step on one."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attent_jax.training import TrainInfo, build_train_step, init_train_state

NUM_DEVICES, PER_DEVICE = 8, 4
NUM_EXAMPLES = NUM_DEVICES * PER_DEVICE
DRAW = np.random.default_rng(0)
BATCH = {
    "x": DRAW.normal(size=(NUM_EXAMPLES, 5)).astype(np.float32),
    "y": DRAW.normal(size=(NUM_EXAMPLES, 3)).astype(np.float32),
}
# Ragged: the last shard is all padding, the one before it half. A mean of the shards'
# means would divide by 0, or weigh every shard alike.
WEIGHTS = np.where(np.arange(NUM_EXAMPLES) < 26, 1.0, 0.0).astype(np.float32)
WEIGHTS[::5] *= 3
OPTIMIZER = optax.adam(0.1, eps=1e-3)


def loss_fn(params, rng, batch):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    return jnp.sum((hidden @ params["v"] - batch["y"]) ** 2, axis=-1)


def start():
    keys = jax.random.split(jax.random.key(0))
    params = {
        "w": jax.random.normal(keys[0], (5, 6)),
        "v": jax.random.normal(keys[1], (6, 3)),
    }
    return init_train_state(params, OPTIMIZER)


def mesh():
    return jax.make_mesh((NUM_DEVICES,), ("data",), axis_types=(AxisType.Auto,))


def three_steps(train_step, batch, weights):
    state: Any = start()
    info: Any = None
    for _ in range(3):
        state, info = train_step(state, None, batch, weights)
    return state, info


def single():
    return three_steps(build_train_step(loss_fn, OPTIMIZER), BATCH, WEIGHTS)


def over_shards(loss_fn, **options):
    replicated, split = PartitionSpec(), PartitionSpec("data")
    info: Any = TrainInfo(*cast(Any, (replicated, split, replicated)))
    return jax.jit(
        jax.shard_map(
            build_train_step(loss_fn, OPTIMIZER, axis_name="data"),
            mesh=mesh(),
            in_specs=(replicated, replicated, split, split),
            out_specs=(replicated, info),
            **options,
        )
    )


def shard_mapped(check_vma):
    train_step = over_shards(loss_fn, check_vma=check_vma)
    return three_steps(train_step, BATCH, WEIGHTS)


def pmapped():
    train_step = build_train_step(loss_fn, OPTIMIZER, axis_name="data")
    mapped = jax.pmap(train_step, axis_name="data", in_axes=(0, None, 0, 0))
    shards, weights = jax.tree.map(
        lambda leaf: leaf.reshape(NUM_DEVICES, PER_DEVICE, *leaf.shape[1:]),
        (BATCH, WEIGHTS),
    )
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * NUM_DEVICES), start())
    info: Any = None
    for _ in range(3):
        state, info = mapped(state, None, shards, weights)
    for leaf in jax.tree.leaves(state):  # replicas stay replicas
        np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * NUM_DEVICES))
    state, loss, norm = jax.tree.map(
        lambda leaf: leaf[0], (state, info.loss, info.grad_norm)
    )
    return state, TrainInfo(loss, info.losses.reshape(-1), norm)


def over_a_mesh():
    split = NamedSharding(mesh(), PartitionSpec("data"))
    batch, weights = jax.device_put((BATCH, WEIGHTS), split)
    state, info = three_steps(build_train_step(loss_fn, OPTIMIZER), batch, weights)
    assert info.losses.sharding.is_equivalent_to(split, 1)
    return state, info


@pytest.mark.parametrize(
    "sharded",
    [
        pytest.param(lambda: shard_mapped(True), id="shard_map"),
        pytest.param(lambda: shard_mapped(False), id="shard_map without check_vma"),
        pytest.param(pmapped, id="pmap"),
        pytest.param(over_a_mesh, id="jit over a mesh"),
    ],
)
def test_sharded_steps_equal_the_single_device_steps(sharded):
    # gradients summed twice come out 8 times too large, not summed, an eighth
    assert jax.device_count() == NUM_DEVICES
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6),
        sharded(),
        single(),
    )


def test_each_shard_has_its_own_randomness():
    def noise(params, rng, batch):
        return jax.random.uniform(rng, (len(batch),)) + 0 * params

    state = init_train_state(jnp.array(0.0), OPTIMIZER)
    _, info = over_shards(noise)(
        state, jax.random.key(0), jnp.zeros(NUM_EXAMPLES), jnp.asarray(WEIGHTS)
    )
    assert len(set(info.losses.tolist())) == NUM_EXAMPLES
