"""Meshes, shardings, selection over many devices, and training on several hosts."""

from attent_jax.distributed._global_arrays import local_rows, put
from attent_jax.distributed._global_selection import (
    global_gumbel_top_k,
    global_top_k,
)
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
    "global_gumbel_top_k",
    "global_top_k",
    "initialize",
    "local_rows",
    "make_mesh",
    "put",
    "replicated",
]
