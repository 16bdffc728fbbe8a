"""The layout of kernels: axes in pairs, as in neural-tangents.

The kernel between outputs `f(x1)` of shape `[n, s, p]` and `f(x2)` of shape `[m, t, p]`
has shape `[n, m, s, t, p, p]`. A traced kernel `[n, m, s, t]` is the mean over equal
channels; it represents its product with the identity on channels.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from attent_jax.typing import Batch
from theory._checks import check_count, leading_size


def as_matrix(kernel: Float[Array, "n m ..."]) -> Float[Array, "rows columns"]:
    """The kernel as a matrix, `[n, m, s, t, p, p]` -> `[n·s·p, m·t·p]`.

    Raises:
      ValueError: if the kernel's axes do not come in pairs.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.layout import as_matrix
      >>> as_matrix(jnp.zeros((3, 2, 5, 7, 4, 4))).shape
      (60, 56)
    """
    _check_pairs(kernel)
    axes = (*range(0, kernel.ndim, 2), *range(1, kernel.ndim, 2))
    rows = math.prod(kernel.shape[::2])
    return kernel.transpose(axes).reshape(rows, math.prod(kernel.shape[1::2]))


def transpose(kernel: Float[Array, "n m ..."]) -> Float[Array, "m n ..."]:
    """The kernel of (x2, x1) from that of (x1, x2), by swapping each pair of axes."""
    _check_pairs(kernel)
    pairs = ((axis + 1, axis) for axis in range(0, kernel.ndim, 2))
    return kernel.transpose(tuple(itertools.chain.from_iterable(pairs)))


def kernel_product(
    kernel: Float[Array, "n m ..."], values: Float[Array, "m ..."]
) -> Float[Array, "n ..."]:
    """K v: the effect of values on x2 on the function on x1.

    Args:
      kernel: `[n, m, s, t, ...]`; missing axes at the end (traced channels) count as
        the identity.
      values: `[m, t, ...]`, such as a functional gradient.

    Returns:
      `[n, s, ...]`.

    Raises:
      ValueError: if the values are not on the kernel's x2.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.layout import kernel_product
      >>> kernel_product(2 * jnp.eye(3), jnp.ones((3, 5))).shape  # 5 channels
      (3, 5)
    """
    _check_pairs(kernel)
    inner = kernel.shape[1::2]
    if values.shape[: len(inner)] != inner:
        raise ValueError(
            f"values has shape {values.shape}, but the kernel's second inputs give "
            f"outputs of shape ({', '.join(map(str, inner))}, …): pass one value per "
            f"output of x2."
        )
    channels = values.shape[len(inner) :]
    product = as_matrix(kernel) @ values.reshape(-1, math.prod(channels))
    return product.reshape(*kernel.shape[::2], *channels)


def blockwise(
    kernel_fn: Callable[[Batch, Batch], PyTree],
    x1: Batch,
    x2: Batch | None,
    batch_size: int,
) -> PyTree:
    """`kernel_fn(x1, x2)`, computed in blocks of `batch_size` × `batch_size` examples.

    With `x2=None` (x1 again) the part below the diagonal is copied from above it. The
    blocks are a scan, so that the compiled program does not grow with their number.

    Args:
      kernel_fn: `(x1, x2) -> kernels`, a kernel or any pytree of them.
      x1: `[n, ...]` examples, any pytree.
      x2: `[m, ...]` or None.
      batch_size: number of examples of a block, in rows and in columns.
    """
    check_count("batch_size", batch_size)
    is_symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    num1, num2 = leading_size("x1", x1), leading_size("x2", x2)
    size1, size2 = min(batch_size, num1), min(batch_size, num2)
    # The last block starts early enough to be full; repeated rows give equal values.
    starts1 = [min(start, num1 - size1) for start in range(0, num1, size1)]
    starts2 = [min(start, num2 - size2) for start in range(0, num2, size2)]
    starts = [
        (start1, start2)
        for start1, start2 in itertools.product(starts1, starts2)
        if not is_symmetric or start1 <= start2
    ]

    def block_at(start1, start2) -> PyTree:
        return kernel_fn(_rows(x1, start1, size1), _rows(x2, start2, size2))

    def fill(kernels: PyTree, corner) -> tuple[PyTree, None]:
        start1, start2 = corner
        blocks = block_at(start1, start2)
        kernels = _put(kernels, blocks, start1, start2)
        if is_symmetric:
            kernels = _put(kernels, jax.tree.map(transpose, blocks), start2, start1)
        return kernels, None

    empty = jax.tree.map(
        lambda block: jnp.zeros((num1, num2, *block.shape[2:]), block.dtype),
        jax.eval_shape(block_at, 0, 0),
    )
    return jax.lax.scan(fill, empty, jnp.array(starts))[0]


def _rows(x: Batch, start, size: int) -> Batch:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), x)


def _put(kernels: PyTree, blocks: PyTree, start1, start2) -> PyTree:
    def put(kernel, block):
        corner = (start1, start2, *[0] * (kernel.ndim - 2))
        return jax.lax.dynamic_update_slice(kernel, block, corner)

    return jax.tree.map(put, kernels, blocks)


def _check_pairs(kernel: Array) -> None:
    if kernel.ndim == 0 or kernel.ndim % 2:
        raise ValueError(
            f"kernel has shape {kernel.shape}, whose axes do not come in pairs: pass "
            f"one of shape [n, m], [n, m, s, t] or [n, m, s, t, p, p]."
        )
