"""States, checkpoints of them, and what must come back."""

from collections import namedtuple
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attent_jax.checkpointing import Checkpointer

IDENTITY = {"config": {"seed": 0, "rates": [0.1, 0.01]}, "pool": 1000}
Pair = namedtuple("Pair", ["first", "second"])


def mesh(*shape, axis_type=AxisType.Auto):
    names = ("data", "model")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(shape))


def placed(x, mesh, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


STATE = {"net": Pair(jnp.arange(6.0).reshape(2, 3), jnp.arange(4)), "rng": np.ones(3)}
# Random, so that no compression notices a flip before the checksums do.
NOISE = {
    "w": np.random.default_rng(0).integers(0, 2**32, (256, 300), np.uint32),
    "split": placed(np.random.default_rng(1).normal(size=(8, 99)), mesh(8), "data"),
    "zeros": jnp.zeros((99, 9)),
    "step": 3,
}


def checkpointer(folder, target, identity=IDENTITY, **options):
    return Checkpointer(folder, target, identity=identity, **options)


def saved(folder, state, *steps, **options):
    """A folder with checkpoints of these steps."""
    with checkpointer(folder, state, **options) as writer:
        writer.restore()
        for step in steps:
            writer.save(step, state, {"epoch": step})


def restored(folder, target, step=None, **options) -> Any:
    with checkpointer(folder, target, **options) as reader:
        return reader.restore(step)


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, twin in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert _told(leaf) == _told(twin)


def _told(leaf):
    """All that must come back of a leaf: what it is, and its bits."""
    kind, dtype = type(leaf), getattr(leaf, "dtype", None)
    if isinstance(leaf, jax.Array):
        kind = jax.Array
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
    weak, array = getattr(leaf, "weak_type", False), np.asarray(leaf)
    return kind, str(dtype), weak, array.shape, array.tobytes()
