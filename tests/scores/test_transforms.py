"""Score transforms against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.scores import chain, ema, standardize, trim_top

SCORES = np.random.default_rng(0).normal(3, 5, 20).astype(np.float32)


def transformed(transform, *rows):
    state, scores = transform.init(len(rows[0])), None
    for row in rows:
        scores, state = transform.update(jnp.asarray(row, jnp.float32), state)
    return np.asarray(scores)


def test_standardize_is_numpys_mean_and_deviation_of_the_finite():
    scores = SCORES.copy()
    scores[[2, 5, 7]] = np.inf, -np.inf, np.nan
    finite = np.isfinite(scores)
    out = transformed(standardize(), scores)
    expected = (scores[finite] - scores[finite].mean()) / scores[finite].std()
    np.testing.assert_allclose(out[finite], expected, rtol=1e-5)
    np.testing.assert_array_equal(out[~finite], scores[~finite])


@pytest.mark.parametrize("value", [0.0, 0.1, 7.3, 1e6])
def test_scores_without_spread_standardize_to_zero(value):
    # rounding in the mean looks like a spread: all 1 or all -1
    np.testing.assert_array_equal(
        transformed(standardize(), np.full(1000, value)), np.zeros(1000)
    )


def test_ema_is_old_times_decay_and_skips_nan():
    rows = [[1.0, np.nan, 4.0], [2.0, 6.0, np.nan], [3.0, 2.0, 8.0]]
    # swapped shares: [2.71, 2.4, 7.6]
    np.testing.assert_allclose(
        transformed(ema(0.9), *rows), [1.29, 5.6, 4.4], rtol=1e-6
    )
    np.testing.assert_array_equal(transformed(ema(0.0), *rows), rows[-1])


@pytest.mark.parametrize(
    ("quantile", "size", "num_trimmed"),
    # floor((1 - 0.9) * 10) is 0 in floating point; rounding trims 2 of 15 at 0.9
    [
        *[(0.9, 10, 1), (0.9, 15, 1), (0.95, 100, 5), (0.8, 20, 4), (0.99, 50, 0)],
        *[(0.7, 1000, 300), (1.0, 10, 0), (0.75, 4, 1), (0.999, 100_000, 100)],
    ],
)
def test_trim_top_trims_exactly_the_highest(quantile, size, num_trimmed):
    scores = np.random.default_rng(1).permutation(size).astype(np.float32)
    out = transformed(trim_top(quantile), scores)
    trimmed = np.isneginf(out)
    np.testing.assert_array_equal(trimmed, scores >= size - num_trimmed)
    np.testing.assert_array_equal(out[~trimmed], scores[~trimmed])


def test_chain_applies_in_order_and_carries_every_state():
    rows = [SCORES, -SCORES]
    averaged = 0.5 * SCORES - 0.5 * SCORES + np.arange(20)
    rows[1] = rows[1] + 2 * np.arange(20, dtype=np.float32)
    out = transformed(chain(ema(0.5), standardize()), *rows)
    np.testing.assert_allclose(
        out, (averaged - averaged.mean()) / averaged.std(), rtol=1e-4, atol=1e-5
    )
    # the other order: standardised rows averaged
    assert not np.allclose(out, transformed(chain(standardize(), ema(0.5)), *rows))
