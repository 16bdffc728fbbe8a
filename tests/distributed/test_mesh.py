"""Meshes and the shardings of batches, parameters and whole train states."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from attent_jax.distributed import (
    batch_sharding,
    fsdp_shardings,
    make_mesh,
    replicated,
)
from attent_jax.training import init_train_state

PARAMS = {"w": jnp.ones((6, 32)), "square": jnp.ones((16, 16)), "b": jnp.ones(32)}


def test_a_mesh_has_both_axes_and_all_devices():
    for options, lengths in (
        ({}, (8, 1)),
        ({"fsdp": 4}, (2, 4)),
        ({"data": 2, "fsdp": 4}, (2, 4)),
        ({"data": 2, "devices": jax.devices()[:2]}, (2, 1)),
    ):
        mesh = make_mesh(**cast(dict[str, Any], options))
        assert tuple(mesh.shape.items()) == tuple(
            zip(("data", "fsdp"), lengths, strict=True)
        )
        # Explicit, the default, would refuse to sort what is split
        assert mesh.axis_types == (AxisType.Auto,) * 2


def test_batches_are_split_over_both_axes():
    mesh = make_mesh(fsdp=4)
    assert batch_sharding(mesh).shard_shape((16, 3)) == (2, 3)
    assert replicated(mesh).shard_shape((16, 3)) == (16, 3)


def test_large_leaves_are_split_along_their_longest_even_axis():
    mesh = make_mesh(fsdp=4)

    def shards(tree, min_size):
        return jax.tree.map(
            lambda leaf, sharding: sharding.shard_shape(leaf.shape),
            tree,
            fsdp_shardings(mesh, tree, min_size=min_size),
        )

    assert shards(PARAMS, 33) == {"w": (6, 8), "square": (4, 16), "b": (32,)}
    assert shards(PARAMS, 32)["b"] == (8,)
    assert shards({"tall": jnp.ones((32, 8))}, 0) == {"tall": (8, 8)}
    assert shards({"odd": jnp.ones((7, 9))}, 0) == {"odd": (7, 9)}
    assert shards({"next": jnp.ones((8, 9))}, 0) == {"next": (2, 9)}
    # the default: what is smaller costs more to gather than to hold
    small, large = fsdp_shardings(mesh, (np.ones((128, 127)), np.ones((128, 128))))
    assert small.is_fully_replicated
    assert not large.is_fully_replicated


def test_train_states_are_laid_out_before_they_exist():
    mesh = make_mesh(fsdp=8)
    optimizer = optax.adam(0.1)
    state = init_train_state(PARAMS, optimizer)
    abstract = jax.eval_shape(lambda: init_train_state(PARAMS, optimizer))
    shardings = fsdp_shardings(mesh, state, min_size=100)
    assert shardings == fsdp_shardings(mesh, abstract, min_size=100)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    assert shardings.opt_state[0].mu == shardings.params  # moments beside their own
    assert shardings.step.is_fully_replicated


CASES = {
    "too many devices asked for": (
        lambda: make_mesh(data=3, fsdp=4),
        "data=3 times fsdp=4 is 12 devices but there are 8: choose",
    ),
    "an fsdp that leaves a rest": (
        lambda: make_mesh(fsdp=3),
        "data=2 times fsdp=3 is 6 devices but there are 8: choose",
    ),
    "more fsdp than devices": (
        lambda: make_mesh(fsdp=16),
        "data=1 times fsdp=16 is 16 devices but there are 8: choose",
    ),
    "no fsdp": (lambda: make_mesh(fsdp=0), "fsdp must be at least 1, got 0: pass"),
    "half a mesh": (
        lambda: make_mesh(data=0.5),  # pyright: ignore[reportArgumentType]
        "data must be an integer, got 0.5 of type float: pass",
    ),
    "a mesh of other axes": (
        lambda: batch_sharding(Mesh(np.array(jax.devices()), ("x",))),
        r"mesh must have the axes \('data', 'fsdp'\), got \('x',\): make it with",
    ),
    "parameters on a mesh of other axes": (
        lambda: fsdp_shardings(Mesh(np.array(jax.devices()), ("data",)), PARAMS),
        r"mesh must have the axes \('data', 'fsdp'\), got \('data',\): make it with",
    ),
    "a negative size": (
        lambda: fsdp_shardings(make_mesh(), PARAMS, min_size=-1),
        "min_size must be at least 0, got -1: pass",
    ),
}


@pytest.mark.parametrize(("act", "message"), CASES.values(), ids=CASES.keys())
def test_error_names_argument_value_and_remedy(act, message):
    with pytest.raises((ValueError, TypeError), match=message):
        act()
