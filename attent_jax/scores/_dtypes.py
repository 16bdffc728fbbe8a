"""The precision in which scores are accumulated."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num


def at_least_float32(array: Num[Array | np.ndarray, "..."]) -> Num[Array, "..."]:
    """`array` in float32, or in its own type where that is wider."""
    array = jnp.asarray(array)
    with jax.numpy_dtype_promotion("standard"):
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))
