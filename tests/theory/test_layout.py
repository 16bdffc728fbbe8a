"""The layout of kernels, and their computation by blocks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.layout import as_matrix, blockwise, kernel_product, transpose

RNG: Any = np.random.default_rng(0)
FULL = RNG.normal(size=(3, 2, 5, 7, 4, 6))
"""Between outputs `[3, 5, 4]` and `[2, 7, 6]`."""


def test_matrix_has_the_first_outputs_as_rows():
    matrix = as_matrix(jnp.asarray(FULL))
    assert matrix.shape == (3 * 5 * 4, 2 * 7 * 6)
    row = np.ravel_multi_index((2, 1, 3), (3, 5, 4))
    column = np.ravel_multi_index((1, 6, 2), (2, 7, 6))
    assert matrix[row, column] == FULL[2, 1, 1, 6, 3, 2]


def test_transposed_kernel_is_the_transposed_matrix():
    kernel = jnp.asarray(FULL)
    assert transpose(kernel).shape == (2, 3, 7, 5, 6, 4)
    np.testing.assert_array_equal(as_matrix(transpose(kernel)), as_matrix(kernel).T)


def test_product_contracts_the_second_outputs():
    values = RNG.normal(size=(2, 7, 6))
    np.testing.assert_allclose(
        kernel_product(jnp.asarray(FULL), jnp.asarray(values)),
        np.einsum("nmjlcd,mld->njc", FULL, values),
    )


@pytest.mark.parametrize("channels", [(), (4,), (4, 2)])
def test_traced_kernel_is_the_identity_on_channels(channels):
    traced, values = FULL[..., 0, 0], RNG.normal(size=(2, 7, *channels))
    expected = np.einsum("nmjl,ml...->nj...", traced, values)
    product = kernel_product(jnp.asarray(traced), jnp.asarray(values))
    np.testing.assert_allclose(product, expected)


def token_kernels(x1, x2, einsum=jnp.einsum):
    """Two kernels of `[n, s, 2]`, each with its own shape."""
    grams = einsum("nja,mla->nmjl", x1, x2)
    return {"tokens": grams, "sequences": grams.mean(axis=(2, 3))}


@settings(max_examples=6)
@given(*[st.integers(1, 6)] * 2, st.integers(1, 7), st.booleans())
def test_blocks_make_the_whole(n, m, batch_size, is_symmetric):
    rng = np.random.default_rng(n)
    x1 = rng.normal(size=(n, 3, 2))
    x2 = None if is_symmetric else rng.normal(size=(m, 2, 2))
    found = blockwise(token_kernels, x1, x2, batch_size)
    whole = token_kernels(x1, x1 if x2 is None else x2, einsum=np.einsum)
    for name, kernel in whole.items():
        np.testing.assert_allclose(found[name], kernel, rtol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 3), (2, 5)])
def test_last_block_is_moved_to_be_whole(n, m):
    # blocks that start past the end would be clipped by jax, and written elsewhere
    x1, x2 = np.arange(n, dtype=float), np.arange(m, dtype=float)
    found = blockwise(lambda a, b: a[:, None] - 10 * b[None], x1, x2, 2)
    np.testing.assert_array_equal(found, x1[:, None] - 10 * x2[None])


def test_batches_may_be_pytrees():
    x = {"a": np.arange(3.0), "b": (np.arange(6.0).reshape(3, 2),)}

    def kernel_fn(x1, x2):
        return x1["a"][:, None] * x2["a"][None] + x1["b"][0] @ x2["b"][0].T

    np.testing.assert_allclose(blockwise(kernel_fn, x, None, 2), kernel_fn(x, x))


@pytest.mark.parametrize(
    ("x2", "num_blocks"), [(None, 6), (np.arange(6.0), 9)], ids=["symmetric", "cross"]
)
def test_blocks_below_the_diagonal_are_copied(x2, num_blocks):
    calls = []

    def kernel_fn(x1, x2):
        jax.debug.callback(lambda: calls.append(1))
        return x1[:, None] * x2[None]

    jax.block_until_ready(blockwise(kernel_fn, np.arange(6.0), x2, 2))
    jax.effects_barrier()
    assert len(calls) == num_blocks


def test_program_does_not_grow_with_the_blocks():
    def num_equations(n):
        x = np.ones((n, 3, 2))
        return len(
            jax.make_jaxpr(lambda x: blockwise(token_kernels, x, None, 2))(x).eqns
        )

    assert num_equations(4) == num_equations(40)
