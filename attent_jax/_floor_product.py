"""A share of a traced count, as exact as Python's."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

_LIMB_BITS, _NUM_LIMBS = 26, 4  # a sum of 31 limbs is below 2³¹
_COUNT_BITS = 31


def floor_product(share: float, count: Int[Array, ""]) -> Int[Array, ""]:
    """`math.floor(share * count)`, the same integer as Python's.

    float32 is too coarse for this: it has no 16,777,219. The bits of the count choose
    the terms of a sum in fixed point. Python rounds the product to 53 bits before the
    floor; adding half of the last of them does the same.

    Args:
      share: in [0, 1].
      count: `[]` non-negative int32.
    """
    place = np.arange(_COUNT_BITS, dtype=np.int32)
    terms = np.stack([_limbs(Fraction(share) * 2**bit) for bit in range(_COUNT_BITS)])
    is_one = (count.astype(jnp.int32) >> place) & 1
    limbs = jnp.sum(is_one[:, None] * terms, axis=0, dtype=jnp.int32)
    num_bits = jnp.sum(_carried(limbs) >> place != 0, dtype=jnp.int32)
    halves = np.stack(
        [_limbs(Fraction(2) ** (bits - 54)) for bits in range(_COUNT_BITS + 1)]
    )
    half = lax.dynamic_index_in_dim(jnp.asarray(halves), num_bits, keepdims=False)
    return _carried(limbs + half)


def _limbs(number: Fraction) -> Int[np.ndarray, "limbs"]:
    """The whole part, then the fraction's limbs, the highest first."""
    shifts = range(_LIMB_BITS * _NUM_LIMBS, -1, -_LIMB_BITS)
    fixed = int(number * 2 ** shifts[0])
    fraction = [fixed >> shift & 2**_LIMB_BITS - 1 for shift in shifts[1:]]
    return np.array([fixed >> shifts[0], *fraction], np.int32)


def _carried(limbs: Int[Array, "limbs"]) -> Int[Array, ""]:
    """The whole part of a sum."""
    carry = jnp.zeros((), jnp.int32)
    for limb in range(_NUM_LIMBS, 0, -1):
        carry = (limbs[limb] + carry) >> _LIMB_BITS
    return limbs[0] + carry
