"""How close a reconstruction is to its signal."""

import numpy as np
from skimage import metrics

MAX_DECIBELS = 150.0
"""Of a perfect reconstruction. Rounding to float32 alone costs about as much, and
records hold finite numbers."""


def psnr(values: np.ndarray, reconstruction: np.ndarray, peak_to_peak: float) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak_to_peak² / mean squared error).

    The reconstruction is not clipped.

    Args:
      values: the signal, any shape.
      reconstruction: of the same shape.
      peak_to_peak: largest minus smallest value that is possible, such as 2 of
        [-1, 1].

    Returns:
      Decibels, at most `MAX_DECIBELS`. NaN if the reconstruction is not finite.

    Raises:
      ValueError: the shapes differ, there are no values, or `peak_to_peak` is not
        positive.

    Example:
      >>> round(psnr(np.zeros(4), np.full(4, 0.2), peak_to_peak=2), 6)
      20.0
    """
    if not 0 < peak_to_peak < np.inf:
        raise ValueError(
            f"`peak_to_peak` is {peak_to_peak}. Give a positive range, such as 2 for "
            "values in [-1, 1]."
        )
    noise = _mean_squared_error(values, reconstruction)
    return _decibels(float(peak_to_peak) ** 2, noise)


def signal_to_noise(values: np.ndarray, reconstruction: np.ndarray) -> float:
    """Signal-to-noise ratio, 10 log10(Σ values² / Σ error²).

    A reconstruction of zeros scores 0.

    Args:
      values: the signal, any shape, not all zero.
      reconstruction: of the same shape.

    Returns:
      Decibels, at most `MAX_DECIBELS`. NaN if the reconstruction is not finite.

    Raises:
      ValueError: the shapes differ, or all values are 0.

    Example:
      >>> round(signal_to_noise(np.ones(3), np.full(3, 0.9)), 6)
      20.0
    """
    noise = _mean_squared_error(values, reconstruction)
    power = float(np.mean(np.square(values, dtype=np.float64)))
    if power == 0:
        raise ValueError("`values` are all 0: silence has no signal-to-noise ratio.")
    return _decibels(power, noise)


def ssim(picture: np.ndarray, reconstruction: np.ndarray) -> float:
    """Structural similarity, averaged over windows and channels.

    With the settings of the original paper: Gaussian windows of 11 × 11 pixels and
    σ = 1.5, and the biased covariance.

    Args:
      picture: `[height, width, channels]` in [-1, 1], 11 pixels or more on each side.
      reconstruction: of the same shape. It is clipped to [-1, 1].

    Returns:
      1 for the same picture, about 0 for an unrelated one. NaN if the reconstruction
      is not finite.

    Raises:
      ValueError: the shapes differ, or the picture is smaller than a window.

    Reference:
      Wang et al., "Image quality assessment: from error visibility to structural
      similarity", 2004, equation 13.

    Example:
      >>> ssim(np.zeros((16, 16, 3)), np.zeros((16, 16, 3)))
      1.0
    """
    _check_shapes(picture, reconstruction)
    if picture.ndim != 3 or min(picture.shape[:2]) < 11:
        raise ValueError(
            f"`picture` has shape {picture.shape}. Give [height, width, channels] with "
            "11 pixels or more on each side."
        )
    if not np.isfinite(reconstruction).all():
        return float("nan")
    similarity: float = metrics.structural_similarity(  # pyright: ignore
        np.asarray(picture, np.float64),
        np.clip(np.asarray(reconstruction, np.float64), -1, 1),
        data_range=2,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(similarity)


def iou(sdf: np.ndarray, reconstruction: np.ndarray) -> float:
    """Intersection over union of the insides, where the values are negative.

    Args:
      sdf: signed distances, any shape.
      reconstruction: of the same shape.

    Returns:
      0 to 1; 1 if both insides are empty. NaN if the reconstruction is not finite.

    Raises:
      ValueError: the shapes differ, or there are no values.

    Example:
      >>> iou(np.array([-1.0, -1.0, 1.0]), np.array([-0.2, 0.1, 0.3]))
      0.5
    """
    _check_shapes(sdf, reconstruction)
    if not np.isfinite(reconstruction).all():
        return float("nan")
    inside, reconstructed = sdf < 0, reconstruction < 0
    union = int(np.count_nonzero(inside | reconstructed))
    both = int(np.count_nonzero(inside & reconstructed))
    return both / union if union else 1.0


def _mean_squared_error(values: np.ndarray, reconstruction: np.ndarray) -> float:
    _check_shapes(values, reconstruction)
    difference = np.subtract(reconstruction, values, dtype=np.float64)
    if not np.isfinite(difference).all():
        return float("nan")
    return float(np.mean(np.square(difference)))


def _decibels(power: float, noise: float) -> float:
    if noise <= power * 10 ** (-MAX_DECIBELS / 10):
        return MAX_DECIBELS
    return float(10 * np.log10(power / noise))


def _check_shapes(values: np.ndarray, reconstruction: np.ndarray) -> None:
    if values.shape != reconstruction.shape or not values.size:
        raise ValueError(
            f"the signal has shape {values.shape} and the reconstruction has shape "
            f"{reconstruction.shape}. Give two arrays of the same shape, not empty."
        )
