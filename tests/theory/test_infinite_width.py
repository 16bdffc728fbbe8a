"""The limit kernel, and finite networks on their way to it."""

from typing import Any

import jax
import numpy as np
import pytest

from theory._checks import _warn_once
from theory.infinite_width import analytic_attention_ntk, finite_width_convergence

RNG: Any = np.random.default_rng(0)
X1, X2 = RNG.normal(size=(3, 4, 5)), RNG.normal(size=(2, 6, 5))


@pytest.fixture(scope="module")
def limit():
    with jax.enable_x64(True):
        both = (
            np.asarray(analytic_attention_ntk(X1)),
            np.asarray(analytic_attention_ntk(X1, X2)),
        )
    return both


def test_limit_is_symmetric_and_positive_definite(limit):
    kernel, _ = limit
    assert kernel.shape == (3, 3)
    np.testing.assert_allclose(kernel, kernel.T, rtol=1e-12)
    assert np.linalg.eigvalsh(kernel)[0] > 1e-3


def test_limit_does_not_feel_the_order_of_tokens(limit):
    permuted = analytic_attention_ntk(X1[:, [2, 0, 3, 1]])
    np.testing.assert_allclose(permuted, limit[0], rtol=1e-10)


def test_lengths_may_differ(limit):
    _, kernel = limit
    assert kernel.shape == (3, 2)
    np.testing.assert_allclose(analytic_attention_ntk(X2, X1), kernel.T, rtol=1e-10)


def test_wide_networks_approach_the_limit():
    found = finite_width_convergence(
        X1, widths=(4, 8, 32), num_seeds=6, rng=jax.random.key(0)
    )
    assert found.widths == (4, 8, 32)
    assert found.errors.shape == (6, 3)
    # −1: one over the root of heads × size. Networks of another scaling keep a
    # distance: their slope is 0.
    assert -1.6 < found.slope < -0.6
    assert found.error_of_mean[-1] < 0.05
    # seeds are networks of their own, whose noise averages out
    assert len(np.unique(found.errors)) == 18
    assert np.all(found.error_of_mean < found.errors.mean(axis=0))
    logarithms = np.log(found.widths), np.log(found.errors.mean(axis=0))
    assert found.slope == pytest.approx(np.polyfit(*logarithms, 1)[0])


def test_float32_warns():
    _warn_once.cache_clear()
    with pytest.raises(UserWarning, match="distance between kernels of float32"):
        finite_width_convergence(
            X1[:1].astype(np.float32), widths=(1, 2), num_seeds=1, rng=jax.random.key(0)
        )
