"""What is saved from some devices is restored on others."""

import shutil

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from tests.checkpointing.saved_runs import assert_same, mesh, placed, restored, saved

LAST = jax.devices()[4:]


def over_eight():
    keys = jax.random.split(jax.random.key(1), 8)
    return {
        "split": placed(jnp.arange(64.0).reshape(16, 4), mesh(8), "data"),
        "keys": placed(keys, mesh(8), "data"),
        "explicit": placed(
            jnp.arange(8), mesh(4, 2, axis_type=AxisType.Explicit), "model"
        ),
        "weak": placed(jnp.full(8, 0.5), mesh(8), "data"),
        "copies": placed(jnp.arange(3, dtype=jnp.bfloat16), mesh(8)),
        "half": placed(jnp.arange(4), jax.make_mesh((4,), ("x",), devices=LAST), "x"),
        "fourth": jax.device_put(jnp.arange(5), jax.devices()[3]),
        "rbg": jax.random.key(2, impl="rbg"),
        "loose": jnp.zeros((), jnp.int32),
    }


def test_restores_on_other_devices(tmp_path):
    state = over_eight()
    places = {
        "one": dict.fromkeys(state, SingleDeviceSharding(jax.devices()[5])),
        "two by four": dict.fromkeys(state, NamedSharding(mesh(2, 4), PartitionSpec()))
        | {
            "split": NamedSharding(mesh(2, 4), PartitionSpec("data", "model")),
            "keys": NamedSharding(mesh(2, 4), PartitionSpec(("model", "data"))),
        },
        "anywhere": dict.fromkeys(state),
        "eight": {name: leaf.sharding for name, leaf in state.items()},
    }
    saved(tmp_path / "start", state, 1)
    for shardings in places.values():
        target = {
            leaf: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[leaf])
            for leaf, x in state.items()
        }
        _, found, _ = restored(tmp_path / "start", target)
        assert_same(found, state)
        for leaf, x in found.items():
            assert x.committed == (shardings[leaf] is not None), leaf
            if x.committed:
                assert x.sharding.is_equivalent_to(shardings[leaf], x.ndim), leaf
        # and what was restored there is saved from there, and read by the next
        shutil.rmtree(tmp_path / "start")
        saved(tmp_path / "start", found, 1)


def test_uncommitted_leaves_still_go_with_any_mesh(tmp_path):
    state = {"w": placed(jnp.arange(8.0), mesh(8), "data"), "step": jnp.zeros(())}
    saved(tmp_path, state, 1)
    _, found, _ = restored(tmp_path, state)
    # a step committed to device 0 could not meet parameters on eight
    assert jax.jit(lambda s: s["w"] + s["step"])(found).sharding.num_devices == 8
