"""Networks so small that their kernels come from whole Jacobians, and those kernels."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory.attention_ntk import AttentionParams

GOLDEN: Any = np.load(Path(__file__).with_name("golden_antk.npz"))
"""Inputs, weights and kernels written by an older jax (see golden_antk.py)."""
X, Z = GOLDEN["in.x"], GOLDEN["in.z"]
"""`[3, 5, 6]` and `[2, 7, 6]`: sequences of two lengths."""
MULTI = AttentionParams(*(GOLDEN[f"in.mh.{name}"] for name in "qkvo"))
"""Two heads, 6 features, keys and values of size 4, 5 outputs."""
SINGLE = AttentionParams(*(GOLDEN[f"in.sh.{name}"][None] for name in "qkv"))
"""One head without output projection."""

_rng: Any = np.random.default_rng(0)
MLP = {
    "hidden": {"w": _rng.normal(size=(3, 4)), "b": _rng.normal(size=4)},
    "out": _rng.normal(size=(4, 6)),
}
POINTS1 = _rng.normal(size=(4, 3))
POINTS2 = _rng.normal(size=(3, 3))


def mlp(params, x):
    """`[n, 3]` -> `[n, 2, 3]`: two positions with three channels each."""
    hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"][None])
    return (hidden @ params["out"]).reshape(len(x), 2, 3)


@cache
def compiled_jacobian(apply_fn):
    """Compiled once for all tests of the same function."""
    return jax.jit(jax.jacobian(apply_fn))


def ntk_by_jacobian(apply_fn, params, x1, x2=None) -> Any:
    """The full kernel in neural-tangents' layout, from the whole Jacobians."""

    def jacobian(x) -> tuple[tuple[int, ...], np.ndarray]:
        shape = jax.eval_shape(apply_fn, params, x).shape
        size = np.prod(shape, dtype=int)
        leaves = jax.tree.leaves(compiled_jacobian(apply_fn)(params, x))
        rows = [np.asarray(leaf).reshape(size, -1) for leaf in leaves]
        return shape, np.concatenate(rows, axis=1)

    (shape1, first), (shape2, second) = jacobian(x1), jacobian(x1 if x2 is None else x2)
    ndim = len(shape1)
    in_pairs = [axis for i in range(ndim) for axis in (i, ndim + i)]
    return (first @ second.T).reshape(*shape1, *shape2).transpose(in_pairs)


def assert_equal(kernel, expected, relative=1e-9):
    """Up to rounding: relative to the largest entry, as small ones may cancel."""
    kernel, expected = np.asarray(kernel), np.asarray(expected)
    assert kernel.shape == expected.shape
    error = np.abs(kernel - expected).max()
    scale = np.abs(expected).max()
    assert error <= relative * scale, f"off by {error:.1e} of {scale:.1e}"
