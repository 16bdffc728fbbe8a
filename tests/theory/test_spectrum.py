"""Eigenvalues and what is read from them, on kernels whose spectrum is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory._checks import _warn_once
from theory.functional_gradient import functional_gradient_descent
from theory.layout import as_matrix
from theory.spectrum import max_learning_rate, spectrum

RNG: Any = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(4, 4)))[0]


def kernel_of(eigenvalues):
    return jnp.asarray(BASIS @ np.diag(eigenvalues) @ BASIS.T)


def test_eigenvalues_descend():
    found = spectrum(kernel_of([2.0, 7.0, 1.0, 4.0]))
    np.testing.assert_allclose(found.eigenvalues, [7.0, 4.0, 2.0, 1.0])
    np.testing.assert_allclose(found.condition_number, 7.0)


def test_equal_directions_count_one_each():
    found = spectrum(kernel_of([3.0, 3.0, 3.0, 0.0]))
    np.testing.assert_allclose(found.effective_rank, 3.0)
    np.testing.assert_allclose(found.participation_ratio, 3.0)


def test_ranks_by_hand():
    found = spectrum(kernel_of([2.0, 1.0, 1.0, 0.0]))
    # the entropy of (1/2, 1/4, 1/4) is 3/2 bits
    np.testing.assert_allclose(found.effective_rank, 2**1.5)
    np.testing.assert_allclose(found.participation_ratio, 16 / 6)


def test_rounding_counts_as_zero():
    column = RNG.normal(size=(6, 2))
    found = spectrum(jnp.asarray(column @ column.T))
    np.testing.assert_array_equal(found.eigenvalues[2:], 0)
    assert np.isposinf(found.condition_number)


def test_axes_come_in_pairs():
    features = RNG.normal(size=(3, 2, 9))
    kernel = jnp.einsum("nsa,mta->nmst", features, features)
    expected = np.linalg.eigvalsh(np.asarray(as_matrix(kernel)))[::-1]
    np.testing.assert_allclose(spectrum(kernel).eigenvalues, expected)


@pytest.mark.parametrize(("share", "converges"), [(0.99, True), (1.01, False)])
def test_descent_diverges_above_the_largest_step_size(share, converges):
    features = RNG.normal(size=(3, 2, 9))
    # by tokens: N is 3 examples, not 6 outputs
    kernel = jnp.einsum("nsa,mta->nmst", features, features)
    learning_rate = share * float(max_learning_rate(kernel))
    descent = functional_gradient_descent(kernel, lambda f: f, learning_rate)

    def step(state, _):
        return descent.step(state, jnp.ones(3) / 3), None

    state, _ = jax.lax.scan(step, descent.init(jnp.ones((3, 2))), length=2000)
    errors = np.abs(state.outputs)
    assert errors.max() < 1e-6 if converges else errors.max() > 1e6


def test_float32_warns_once():
    _warn_once.cache_clear()
    kernel = jnp.eye(2, dtype=jnp.float32)
    with pytest.warns(UserWarning, match="spectrum of float32 .*jax_enable_x64"):
        spectrum(kernel)
    spectrum(kernel)  # a second warning would be an error


def test_a_diverged_kernel_stays_nan():
    assert np.isnan(spectrum(jnp.full((2, 2), jnp.nan)).eigenvalues).all()
