"""Masks: exact counts, the shares' distribution, one mask for an id."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import dirichlet_masks, example_rngs

DRAW = jax.jit(dirichlet_masks, static_argnums=(1, 2, 3))
MANY = 3000


def draw_many(num_tokens, num_visible, alpha=1.0):
    rngs = jax.random.split(jax.random.key(0), MANY)
    return DRAW(rngs, num_tokens, num_visible, alpha)


def counts_of(mask, num_tokens):
    """`[batch, modalities]` visible tokens of each."""
    parts = np.split(np.asarray(mask.is_visible), np.cumsum(num_tokens)[:-1], axis=1)
    return np.stack([part.sum(axis=1) for part in parts], axis=1)


@pytest.mark.parametrize(
    ("num_tokens", "num_visible", "alpha"),
    [((7, 3, 9), 5, 1.0), ((2, 30), 20, 0.01), ((4, 4), 8, 50.0)],
)
def test_every_example_has_the_exact_number_of_visible_tokens(
    num_tokens, num_visible, alpha
):
    mask = draw_many(num_tokens, num_visible, alpha)
    visible, places = np.asarray(mask.visible), np.asarray(mask.places)
    assert visible.shape == (MANY, num_visible)
    assert (np.asarray(mask.is_visible).sum(axis=1) == num_visible).all()
    # each token has a place, and the visible ones the first places in order
    np.testing.assert_array_equal(
        np.sort(places, axis=1)[0], np.arange(places.shape[1])
    )
    found = np.take_along_axis(places, visible, axis=1)
    np.testing.assert_array_equal(found, np.tile(np.arange(num_visible), (MANY, 1)))
    assert (counts_of(mask, num_tokens) <= np.array(num_tokens)).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_dirichlet(alpha):
    mask = draw_many((60, 60, 60), 60, alpha)
    shares = counts_of(mask, (60, 60, 60)) / 60
    np.testing.assert_allclose(shares.mean(axis=0), 1 / 3, atol=0.03)
    # Var of Dirichlet(α, α, α); rounding adds 1 / (12 · 60²)
    variance = (1 / 3) * (2 / 3) / (3 * alpha + 1) + 1 / (12 * 60**2)
    np.testing.assert_allclose(shares.var(axis=0), variance, rtol=0.12)
    if alpha == 1:
        # each share is Beta(1, 2): P(share <= x) = 1 − (1 − x)²
        x = np.array([0.1, 0.3, 0.5, 0.8])
        below = (shares[..., None] <= x).mean(axis=(0, 1))
        np.testing.assert_allclose(below, 1 - (1 - x - 0.5 / 60) ** 2, atol=0.02)


def test_counts_are_websters_rounding_of_the_shares():
    num_tokens, num_visible = (60, 60, 60), 31
    rngs = jax.random.split(jax.random.key(0), MANY)
    counts = counts_of(DRAW(rngs, num_tokens, num_visible, 1.0), num_tokens)
    draw = jax.vmap(
        lambda rng: jax.random.loggamma(jax.random.split(rng, 4)[0], 1, (3,))
    )
    shares = np.exp(np.asarray(draw(rngs), np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    # no token would have been better given to another modality
    next_one = shares / (counts + 0.5)
    last_one = np.where(counts > 0, shares / np.maximum(counts - 0.5, 0.5), np.inf)
    assert (next_one.max(axis=1) <= last_one.min(axis=1) * (1 + 1e-5)).all()
    assert np.abs(counts - shares * num_visible).max() < 1.01


def test_tokens_of_a_modality_are_as_likely():
    mask = draw_many((12, 20), 8)
    shown = np.asarray(mask.is_visible).mean(axis=0)
    for part in (shown[:12], shown[12:]):
        error = np.sqrt(part.mean() * (1 - part.mean()) / MANY)
        assert np.abs(part - part.mean()).max() < 4 * error


def test_a_mask_depends_on_key_and_id_alone():
    ids = jnp.array([5, 900_000, 7, 5], jnp.int32)

    def masks(seed, ids):
        rngs = example_rngs(jax.random.key(seed), ids)
        return DRAW(rngs, (9, 9), 6, 1.0).visible

    mask = masks(0, ids)
    np.testing.assert_array_equal(mask, masks(0, ids))
    np.testing.assert_array_equal(mask[::-1], masks(0, ids[::-1]))
    np.testing.assert_array_equal(mask[0], mask[3])
    assert not np.array_equal(mask[0], mask[2])
    assert not np.array_equal(mask, masks(1, ids))


def test_bad_arguments_are_named():
    rngs = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="num_visible must be at most 8, got 9"):
        dirichlet_masks(rngs, (4, 4), 9)
    with pytest.raises(ValueError, match="alpha"):
        dirichlet_masks(rngs, (4, 4), 2, 0.0)
    with pytest.raises(TypeError, match="num_tokens"):
        dirichlet_masks(rngs, (4, 0.5), 2)  # pyright: ignore[reportArgumentType]
