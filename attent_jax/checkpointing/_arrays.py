"""The array that is written for a leaf, and the leaf made of it again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from attent_jax.checkpointing._leaves import NUMBERS


def abstract(leaf: Any) -> Any:
    """A leaf without its memory: what restoring must know of it."""
    if isinstance(leaf, jax.Array):
        sharding = leaf.sharding if leaf.committed else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if isinstance(leaf, np.ndarray):
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return leaf


def stored(leaf: Any) -> jax.Array | np.ndarray:
    """The array that is written for a leaf."""
    if not isinstance(leaf, jax.Array):
        array = np.asarray(leaf)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf) if _is_held_alone(leaf.sharding) else leaf


def stored_as(like: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of what is written for an abstract leaf."""
    if not isinstance(like, jax.ShapeDtypeStruct):
        array = np.asarray(like)
        return jax.ShapeDtypeStruct(array.shape, array.dtype.newbyteorder("="))
    return jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like


def restore_args(like: Any) -> ocp.RestoreArgs:
    """How orbax shall read what was written for an abstract leaf."""
    sharding = getattr(like, "sharding", None)
    if sharding is None or _is_held_alone(sharding):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding)


def restored(like: Any, array: jax.Array | np.ndarray, *, weak_type: bool) -> Any:
    """The leaf that was written as `array`, of the kind and in the place of `like`."""
    if type(like) in NUMBERS:
        return type(like)(array[()])
    if not isinstance(like, jax.ShapeDtypeStruct):
        return array if isinstance(like, np.ndarray) else array[()]
    placed = jax.device_put(array, like.sharding)
    if _is_key(like):
        return jax.random.wrap_key_data(placed, impl=_key_impl(like))
    return _weakened(placed, like.sharding) if weak_type else placed


def _is_held_alone(sharding: Sharding) -> bool:
    # Orbax takes from several processes what they hold together, or all the same.
    return jax.process_count() > 1 and sharding.is_fully_addressable


def _weakened(array: jax.Array, sharding: Sharding | None) -> jax.Array:
    # A strong one would promote others and compile anew what took a weak one.
    zero = jnp.asarray({"i": 0, "f": 0.0, "c": 0j}.get(array.dtype.kind, False))
    weak = jax.device_put(jnp.broadcast_to(zero, array.shape), sharding)
    return weak.at[...].set(array) if zero.dtype == array.dtype else array


def _is_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(like: jax.ShapeDtypeStruct) -> Any:
    impls = []  # of a traced key, as key_impl takes no abstract one
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), like)
    return impls[0]
