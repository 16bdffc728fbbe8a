"""Random projections against the exact kernel: unbiased, with an error of 1/√k."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.small_networks import (
    MLP,
    POINTS1,
    POINTS2,
    assert_equal,
    mlp,
    ntk_by_jacobian,
)
from theory.layout import as_matrix
from theory.sketching import sketched_features

OTHER: Any = "other"
PROJECTIONS: Any = ["count_sketch", "gaussian"]
each_projection = pytest.mark.parametrize("projection", PROJECTIONS)
EXACT = np.asarray(as_matrix(ntk_by_jacobian(mlp, MLP, POINTS1)))


def estimate(features):
    rows = features.reshape(-1, features.shape[-1])
    return np.asarray(rows @ rows.T)


@cache
def estimates(num_features, projection):
    """`[40 draws, outputs, outputs]`; one program makes them all."""

    @jax.jit
    @jax.vmap
    def draw(rng):
        features = sketched_features(mlp, num_features, rng=rng, projection=projection)(
            MLP, POINTS1
        )
        rows = features.reshape(-1, num_features)
        return rows @ rows.T

    return np.asarray(draw(jax.random.split(jax.random.key(0), 40)))


@each_projection
def test_the_estimate_is_unbiased_with_the_variance_of_theory(projection):
    num_features = 16
    found = estimates(num_features, projection)
    lengths = np.diag(EXACT)
    bound = (np.outer(lengths, lengths) + EXACT**2) / num_features
    error = np.abs(found.mean(axis=0) - EXACT)
    # five standard errors of the mean of 40 draws
    assert (error < 5 * (bound / len(found)) ** 0.5).all()
    variance = found.var(axis=0).sum() / bound.sum()
    # "at most": with few parameters, entries rarely fall onto each other
    assert 0.4 < variance < 1.3


@each_projection
def test_four_times_the_features_halve_the_error(projection):
    def error(num_features):
        found = estimates(num_features, projection) - EXACT
        return (np.linalg.norm(found, axis=(1, 2)) ** 2).mean() ** 0.5

    assert 1.7 < error(16) / error(64) < 2.4


@each_projection
def test_examples_share_the_projection_and_batches_change_nothing(projection):
    features_fn = sketched_features(
        mlp, 8, rng=jax.random.key(1), projection=projection
    )
    together = features_fn(MLP, np.concatenate([POINTS1, POINTS2]))
    assert together.shape == (7, 2, 3, 8)
    in_batches = sketched_features(
        mlp, 8, rng=jax.random.key(1), projection=projection, batch_size=3
    )
    assert_equal(in_batches(MLP, POINTS2), together[4:])


@each_projection
def test_the_features_are_linear_in_the_gradient(projection):
    """A linear model whose gradients are the inputs: φ(a + b) = φ(a) + φ(b)."""
    features_fn = sketched_features(
        lambda params, x: x @ params, 8, rng=jax.random.key(2), projection=projection
    )
    first, second = (np.asarray(p) for p in (POINTS1[:3], POINTS2))
    found = features_fn(jnp.zeros(3), first + second)
    expected = features_fn(jnp.zeros(3), first) + features_fn(jnp.zeros(3), second)
    assert_equal(found, expected)


def test_slices_of_a_random_matrix_are_drawn_each_for_itself(monkeypatch):
    """With one slice's matrix for all, equal entries would add up."""
    monkeypatch.setattr("theory.sketching._SLICE", 4 * 50)  # four entries at a time
    features_fn = sketched_features(
        lambda params, x: x @ params, 50, rng=jax.random.key(3), projection="gaussian"
    )
    features = features_fn(jnp.zeros(10), np.eye(10))
    cosines = features @ features.T / 1.0
    assert np.abs(cosines - np.eye(10)).max() < 0.8  # else 1, between 0, 4 and 8


def test_only_trained_parameters_are_projected():
    frozen = {"hidden": False, "out": True}
    features_fn = sketched_features(mlp, 4000, rng=jax.random.key(4), trainable=frozen)
    # with far more features than parameters hardly any entries meet
    found = estimate(features_fn(MLP, POINTS1))
    hidden = np.tanh(POINTS1 @ MLP["hidden"]["w"] + MLP["hidden"]["b"])
    exact = np.kron(hidden @ hidden.T, np.eye(6))
    np.testing.assert_allclose(np.diag(found), np.diag(exact), rtol=0.05)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="projection must be one of count_sketch, ga"):
        sketched_features(mlp, 8, rng=jax.random.key(0), projection=OTHER)
    with pytest.raises(ValueError, match="num_features must be a positive integer"):
        sketched_features(mlp, 0, rng=jax.random.key(0))
