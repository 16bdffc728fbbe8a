"""Pools with stable ids, and a selection turned into an epoch of batches."""

from attent_jax.data._epochs import EpochOrder, epoch_batches, epoch_order
from attent_jax.data._pools import ArrayPool, Pool, SourcePool

__all__ = [
    "ArrayPool",
    "EpochOrder",
    "Pool",
    "SourcePool",
    "epoch_batches",
    "epoch_order",
]
