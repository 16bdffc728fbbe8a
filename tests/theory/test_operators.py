"""Estimates from products alone against the kernel itself, with their error laws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.small_networks import MLP, POINTS1, assert_equal, mlp, ntk_by_jacobian
from theory.empirical_ntk import ntk_vector_product
from theory.layout import as_matrix
from theory.operators import (
    hutchinson_trace,
    kernel_regression,
    lanczos_spectrum,
    max_learning_rate,
    nystrom_coefficients,
)
from theory.spectrum import max_learning_rate as of_kernel

RNG: Any = np.random.default_rng(0)
SIZE = 30
BASIS = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]
KEY = jax.random.key(0)


def decaying() -> np.ndarray:
    """Eigenvalues 2^-i, as kernels of smooth functions have them."""
    return BASIS @ np.diag(0.5 ** np.arange(SIZE)) @ BASIS.T


def test_lanczos_finds_the_largest_eigenvalues_of_a_networks_kernel():
    kernel = ntk_by_jacobian(mlp, MLP, POINTS1)
    product_fn = ntk_vector_product(mlp)
    found = lanczos_spectrum(
        lambda values: product_fn(MLP, values, POINTS1),
        (4, 2, 3),
        num_eigenvalues=3,
        num_products=16,
        rng=KEY,
    )
    exact = np.linalg.eigvalsh(as_matrix(kernel))[::-1][:3]
    np.testing.assert_allclose(found.eigenvalues, exact, rtol=1e-6)


def test_lanczos_is_right_to_1e_6_with_a_third_of_the_products_and_within_its_bounds():
    matrix = jnp.asarray(decaying())
    found = lanczos_spectrum(
        lambda v: matrix @ v, (SIZE,), num_eigenvalues=4, num_products=10, rng=KEY
    )
    errors = np.abs(found.eigenvalues - 0.5 ** np.arange(4))
    assert (errors < 1e-6).all()
    # rounding is not in the bounds
    assert (errors <= found.error_bounds + 1e-14).all()
    assert found.error_bounds.max() < 1e-2


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_lanczos_continues_where_the_kernel_has_few_directions(rank):
    columns = BASIS[:, :rank]
    matrix = jnp.asarray(2 * columns @ columns.T)
    found = lanczos_spectrum(
        lambda v: matrix @ v, (SIZE,), num_eigenvalues=5, num_products=12, rng=KEY
    )
    # equal eigenvalues are found several times: every restart finds one
    expected = [2.0] * rank + [0.0] * (5 - rank)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12)


def test_the_step_size_is_that_of_the_kernel():
    kernel = ntk_by_jacobian(mlp, MLP, POINTS1)
    product_fn = ntk_vector_product(mlp)
    found = max_learning_rate(
        lambda values: product_fn(MLP, values, POINTS1), (4, 2, 3), rng=KEY
    )
    np.testing.assert_allclose(found, of_kernel(jnp.asarray(kernel)), rtol=1e-9)


def test_the_trace_is_unbiased_with_the_error_of_theory():
    matrix = decaying()
    num_samples, exact = 400, np.trace(matrix)
    off_diagonal = matrix - np.diag(np.diag(matrix))
    variance = 2 * np.sum(off_diagonal**2) / num_samples
    found = hutchinson_trace(
        lambda v: jnp.asarray(matrix) @ v, (SIZE,), num_samples=num_samples, rng=KEY
    )
    np.testing.assert_allclose(found.standard_error, variance**0.5, rtol=0.2)
    assert abs(found.trace - exact) < 3 * variance**0.5
    assert abs(found.trace - exact) < 0.1 * exact


def test_the_trace_is_exact_where_nothing_is_off_the_diagonal():
    found = hutchinson_trace(lambda v: 3 * v, (2, 5), num_samples=2, rng=KEY)
    assert (float(found.trace), float(found.standard_error)) == (30.0, 0.0)


@pytest.mark.parametrize("ridge", [0.1, 1e-3])
def test_regression_solves_the_system(ridge):
    matrix, targets = jnp.asarray(decaying()), jnp.asarray(RNG.normal(size=(3, 10)))

    def product_fn(values):
        return (matrix @ values.ravel()).reshape(values.shape)

    found = kernel_regression(product_fn, targets, ridge=ridge, tolerance=1e-10)
    expected = np.linalg.solve(matrix + ridge * np.eye(SIZE), targets.ravel())
    assert_equal(found.coefficients.ravel(), expected, 1e-7)
    assert found.residual < 1e-9
    early = kernel_regression(product_fn, targets, ridge=ridge, max_products=1)
    assert early.residual > 0.01


def test_nystrom_with_all_landmarks_is_kernel_regression():
    kernel, targets = jnp.asarray(decaying()), jnp.asarray(RNG.normal(size=(SIZE, 2)))
    found = kernel @ nystrom_coefficients(kernel, kernel, targets, ridge=0.01)
    expected = kernel @ np.linalg.solve(kernel + 0.01 * np.eye(SIZE), targets)
    assert_equal(found, expected, 1e-6)


def test_nystrom_is_exact_when_the_landmarks_span_the_kernel():
    features = RNG.normal(size=(SIZE, 3))
    kernel = jnp.asarray(features @ features.T)
    targets = jnp.asarray(features @ RNG.normal(size=3))
    # six landmarks, of which three would do: the matrix between them is singular
    coefficients = nystrom_coefficients(kernel[:, :6], kernel[:6, :6], targets)
    assert_equal(kernel[:, :6] @ coefficients, targets, 1e-9)


def test_nystroms_error_falls_with_the_eigenvalues_it_leaves_out():
    kernel, targets = jnp.asarray(decaying()), jnp.asarray(RNG.normal(size=SIZE))
    exact = kernel @ np.linalg.solve(kernel + 0.05 * np.eye(SIZE), targets)

    def error(num_landmarks):
        some = kernel[:, :num_landmarks]
        found = some @ nystrom_coefficients(
            some, some[:num_landmarks], targets, ridge=0.05
        )
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    errors = [error(m) for m in (2, 8, 20)]
    assert errors[0] > 3 * errors[1] > 30 * errors[2]


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="num_products=3 must be between num_eigenv"):
        lanczos_spectrum(lambda v: v, (9,), num_eigenvalues=4, num_products=3, rng=KEY)
    with pytest.raises(ValueError, match=r"num_products=10 must .* the 9 entries"):
        lanczos_spectrum(lambda v: v, (9,), num_eigenvalues=4, num_products=10, rng=KEY)
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        hutchinson_trace(lambda v: v, (9,), num_samples=1, rng=KEY)
    with pytest.raises(ValueError, match=r"ridge must be 0 or more, got -1"):
        kernel_regression(lambda v: v, jnp.ones(3), ridge=-1)
    with pytest.raises(ValueError, match=r"ridge must be 0 or more, got -1"):
        nystrom_coefficients(jnp.eye(3), jnp.eye(3), jnp.ones(3), ridge=-1)
    with pytest.raises(ValueError, match=r"kernel_to_landmarks has shape \(3, 2\)"):
        nystrom_coefficients(jnp.ones((3, 2)), jnp.eye(3), jnp.ones(3))
