"""Checks whose errors name the argument, its value and the remedy."""

import functools
import os
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GIB = 2**30


def check_count(name: str, value: Any) -> None:
    """Refuse anything but a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def leading_size(name: str, tree: Any) -> int:
    """The length of the leaves' common first axis: the number of examples."""
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or (size := sizes.pop()) in {(), (0,)}:
        shapes = jax.tree.map(np.shape, tree)
        raise ValueError(
            f"{name} must hold arrays that share a leading axis of at least one "
            f"example, got shapes {shapes}."
        )
    return size[0]


def check_fits(what: str, num_bytes: int, remedy: str) -> None:
    """Refuse an array that is larger than the device's memory."""
    memory = memory_bytes()
    if num_bytes > memory:
        raise ValueError(
            f"{what} would take {num_bytes / GIB:,.1f} GiB, but there are only "
            f"{memory / GIB:,.1f} GiB of memory: {remedy}."
        )


def memory_bytes() -> int:
    """Bytes of memory of the default device, or of the machine if that is a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def warn_unless_float64(what: str, tree: Any) -> None:
    """Warn once for each `what` if rounding is larger than the quantity."""
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)}
    floats = {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}
    if floats - {jnp.dtype("float64")}:
        _warn_once(what, ", ".join(sorted(str(dtype) for dtype in floats)))


@functools.cache
def _warn_once(what: str, dtypes: str) -> None:
    warnings.warn(
        f"{what} of {dtypes} arrays is rounding where it is below 1e-6 or so: call "
        f"jax.config.update('jax_enable_x64', True) first and pass float64 arrays.",
        stacklevel=4,
    )
