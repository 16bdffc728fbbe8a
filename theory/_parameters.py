"""The parameters that a kernel is about, split off from the rest."""

import jax
import jax.numpy as jnp

from attent_jax.training import merge_params, partition_params
from attent_jax.typing import Params, Trainable


def split_params(params: Params, trainable: Trainable) -> tuple[Params, Params]:
    """`partition_params`, in which leaves that are not floating point are frozen.

    A model's state often has counters and keys of random numbers among its leaves,
    which have no gradient.
    """
    leaves, treedef = jax.tree.flatten(params)
    is_floating = [
        jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact)
        for leaf in leaves
    ]
    stand_ins = [
        leaf if floating else 0.0
        for leaf, floating in zip(leaves, is_floating, strict=True)
    ]
    trained, _ = partition_params(treedef.unflatten(stand_ins), trainable)
    kept = [
        leaf if floating and mark is not None else None
        for leaf, floating, mark in zip(
            leaves, is_floating, treedef.flatten_up_to(trained), strict=True
        )
    ]
    if leaves and all(leaf is None for leaf in kept):
        raise ValueError(
            f"params has no trained leaf of floating point, only leaves of "
            f"{', '.join(sorted({str(jnp.result_type(leaf)) for leaf in leaves}))}: "
            f"pass the parameters, and mark some with trainable=."
        )
    frozen = [
        leaf if mark is None else None for leaf, mark in zip(leaves, kept, strict=True)
    ]
    return treedef.unflatten(kept), treedef.unflatten(frozen)


__all__ = ["merge_params", "split_params"]
