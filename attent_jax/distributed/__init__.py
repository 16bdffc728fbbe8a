"""Meshes, shardings, and start-up on several hosts."""

from attent_jax.distributed._global_arrays import local_rows, put
from attent_jax.distributed._initialize import initialize
from attent_jax.distributed._mesh import (
    batch_sharding,
    fsdp_shardings,
    make_mesh,
    replicated,
)

__all__ = [
    "batch_sharding",
    "fsdp_shardings",
    "initialize",
    "local_rows",
    "make_mesh",
    "put",
    "replicated",
]
