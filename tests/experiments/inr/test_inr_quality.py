"""Quality measures against other implementations and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import metrics

from experiments.inr.quality import MAX_DECIBELS, iou, psnr, signal_to_noise, ssim


def pair(shape=(20, 17, 3), noise=0.2):
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, size=shape).astype(np.float32)
    return values, (values + noise * rng.normal(size=shape)).astype(np.float32)


@given(st.floats(1e-4, 2.0), st.sampled_from([1.0, 2.0, 255.0]))
def test_psnr_of_a_constant_error(error, peak_to_peak):
    decibels = psnr(np.zeros(5), np.full(5, error), peak_to_peak)
    assert decibels == pytest.approx(20 * math.log10(peak_to_peak / error), abs=1e-6)


def test_psnr_is_scikit_images():
    values, reconstruction = pair()
    expected = metrics.peak_signal_noise_ratio(values, reconstruction, data_range=2)
    assert psnr(values, reconstruction, 2) == pytest.approx(expected, abs=1e-4)


def test_psnr_by_hand():
    # errors 0, 0, 1, 1: a mean square of 1/2, and 2² / (1/2) = 8
    decibels = psnr(np.zeros(4), np.array([0.0, 0, 1, -1]), 2)
    assert decibels == pytest.approx(10 * math.log10(8))


def test_psnr_has_a_finite_end():
    values, _ = pair()
    assert psnr(values, values, 2) == MAX_DECIBELS
    # rounding to float32 is near the end, not beyond
    exact = np.random.default_rng(0).uniform(-1, 1, size=10_000)
    assert 145 < psnr(exact, exact.astype(np.float32), 2) <= MAX_DECIBELS
    assert 130 < psnr(exact, exact + 4e-7, 2) < 140


def test_psnr_in_float64():
    # in float32 the squares would overflow
    decibels = psnr(np.zeros(3, np.float32), np.full(3, 1e25, np.float32), 2)
    assert decibels == pytest.approx(20 * math.log10(2e-25), abs=1e-5)


def test_signal_to_noise_by_hand():
    values = np.array([3.0, -4.0])
    assert signal_to_noise(values, np.zeros(2)) == pytest.approx(0)
    assert signal_to_noise(values, values * 0.9) == pytest.approx(20)
    assert signal_to_noise(values, np.array([3.0, -3.5])) == pytest.approx(20)
    assert signal_to_noise(values, values) == MAX_DECIBELS
    with pytest.raises(ValueError, match="silence"):
        signal_to_noise(np.zeros(2), values)


def ssim_by_the_paper(x, y):
    """Equation 13 in every window of one channel, one after the other."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    scores = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            scores.append(
                (2 * mean_a * mean_b + c1)
                * (2 * both + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return np.mean(scores)


def test_ssim_is_the_papers():
    values, reconstruction = pair()
    clipped = np.clip(reconstruction, -1, 1)
    each = [
        ssim_by_the_paper(*(array[..., i].astype(float) for array in (values, clipped)))
        for i in range(3)
    ]
    assert ssim(values, reconstruction) == pytest.approx(np.mean(each), abs=1e-6)


def test_ssim_orders_reconstructions():
    values, slight = pair(noise=0.05)
    _, strong = pair(noise=0.5)
    assert ssim(values, values) == pytest.approx(1)
    assert 1 > ssim(values, slight) > ssim(values, strong) > -0.1
    with pytest.raises(ValueError, match="11 pixels or more"):
        ssim(values[:10], slight[:10])


def test_iou_by_hand():
    sdf = np.array([-1.0, -0.5, -0.1, 0.2, 0.9, 0.0])
    assert iou(sdf, sdf) == 1
    assert iou(sdf, -sdf) == 0
    # insides {0, 1, 2} and {1, 2, 3}
    other = np.array([0.1, -0.1, -0.1, -0.1, 0.3, 0.0])
    assert iou(sdf, other) == iou(other, sdf) == 0.5
    assert iou(sdf, np.ones(6)) == 0
    assert iou(np.ones(6), np.ones(6)) == 1


def decibels_of_2(values, reconstruction):
    return psnr(values, reconstruction, 2)


@pytest.mark.parametrize("measure", [decibels_of_2, signal_to_noise, ssim, iou])
def test_every_measure(measure):
    values, reconstruction = pair()
    assert type(measure(values, reconstruction)) is float
    for diverged in (np.nan, np.inf, -np.inf):
        reconstruction[2, 3, 1] = diverged
        assert math.isnan(measure(values, reconstruction))
    with pytest.raises(ValueError, match="the same shape"):
        measure(values, reconstruction[:-1])
    with pytest.raises(ValueError, match="not empty"):
        measure(values[:0], reconstruction[:0])


@pytest.mark.parametrize("peak_to_peak", [0, -1, math.nan, math.inf])
def test_a_range_that_is_refused(peak_to_peak):
    with pytest.raises(ValueError, match="Give a positive range"):
        psnr(np.zeros(2), np.ones(2), peak_to_peak)
