"""Pools with stable ids, and a selection turned into an epoch of batches."""

from attent_jax.data._epoch_batches import EpochBatch, epoch_batches
from attent_jax.data._epoch_order import EpochOrder, epoch_order
from attent_jax.data._fetch import take
from attent_jax.data._pools import ArrayPool, Pool, SourcePool

__all__ = [
    "ArrayPool",
    "EpochBatch",
    "EpochOrder",
    "Pool",
    "SourcePool",
    "epoch_batches",
    "epoch_order",
    "take",
]
