"""On a mesh no device does another's work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import distributed
from tests.families import POOL_SIZE, selectors_over

# Beside it a sorted sample of 4096, which all devices need, is little.
LARGE_POOL = 2**20
every_mesh = pytest.mark.parametrize(
    "num_devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)), 8]
)


def mesh_of(num_devices: int):
    return distributed.make_mesh(devices=jax.devices()[:num_devices])


@functools.cache
def flops(name: str, num_devices: int) -> float:
    """Of one device."""
    mesh = mesh_of(num_devices) if num_devices > 1 else None
    sharding = mesh and distributed.batch_sharding(mesh)
    scores = jax.ShapeDtypeStruct((LARGE_POOL,), jnp.float32, sharding=sharding)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    select = jax.jit(selectors_over(mesh, LARGE_POOL)[name])
    compiled = select.lower(jax.random.key(0), scores, count).compile()
    return (compiled.cost_analysis() or {})["flops"]


@pytest.mark.parametrize("name", selectors_over(None, POOL_SIZE))
@every_mesh
def test_selectors_divide_their_work(name, num_devices):
    of_all = num_devices * flops(name, num_devices)
    # a partition of the whole pool by every device: 2.5 times at 8 devices
    assert of_all / flops(name, 1) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", selectors_over(None, POOL_SIZE))
@every_mesh
def test_selectors_give_the_single_devices_answer(name, num_devices):
    rng = jax.random.key(num_devices)
    scores = jax.random.normal(rng, (POOL_SIZE,)).at[3].set(jnp.nan)
    selections = [
        selectors_over(mesh, POOL_SIZE)[name](rng, scores, 5)
        for mesh in (None, mesh_of(num_devices))
    ]
    jax.tree.map(np.testing.assert_array_equal, *selections)
