"""Sounds to fit, from WAV files."""

import importlib.metadata
import io
import math
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import signal as filters
from scipy.io import wavfile

from experiments.inr.signals import Signal, digest, sampled
from experiments.study.options import OptionError

MIN_SAMPLES = 64
MIN_PEAK = 1e-3
"""-60 dB of full scale. What is never louder is silent."""
CLIPPED_RUN = 3
"""So many equal samples in a row at full scale are clipped."""
MAX_CLIPPED = 1e-3
"""Largest share of clipped samples."""

_FULL_SCALE = 0.9999


def load_sound(
    path: str | Path, seconds: float, *, start: float = 0.0, rate: float | None = None
) -> Signal:
    """A part of a WAV file, as one channel.

    Channels are averaged. The part is resampled if you ask for another rate, and
    scaled to a largest absolute value of 1.

    A file counts as clipped if more than `MAX_CLIPPED` of a channel's samples are in
    runs of `CLIPPED_RUN` or more equal samples at full scale. Full scale is the largest
    number of an integer format, and 1 of a floating-point format. A run of equal
    samples there is a peak cut off: a wave that only touches full scale has one or two.

    Args:
      path: a WAV file of integers or floating-point numbers, any number of channels.
      seconds: length of the part.
      start: where it begins, in seconds.
      rate: samples per second of the result, an integer. None: the file's.

    Returns:
      A signal of shape `(samples,)` and one channel. The coordinate is time, -1 to 1.

    Raises:
      OptionError: the file does not decode, is empty, shorter than asked, silent,
        clipped or not finite.

    Example:
      >>> import tempfile
      >>> tone = np.sin(np.arange(8_000) / 5).astype(np.float32) / 2
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     wavfile.write(f"{folder}/tone.wav", 8_000, tone)
      ...     signal = load_sound(f"{folder}/tone.wav", seconds=0.5)
      >>> signal.shape, float(abs(signal.values).max())
      ((4000,), 1.0)
    """
    _check_times(seconds, start)
    if rate is not None:
        check_rate(rate)
    path = Path(path)
    data = path.read_bytes()
    file_rate, samples = _decode(data, path)
    if not len(samples):
        raise OptionError(f"the sound {path} is empty. Give a file with samples.")
    rate = file_rate if rate is None else int(rate)
    first, last = round(start * file_rate), round((start + seconds) * file_rate)
    if last > len(samples):
        raise OptionError(
            f"the sound {path} lasts {len(samples) / file_rate:.3g} s, shorter than "
            f"the {start + seconds:.3g} s asked for. Ask for fewer seconds, or an "
            "earlier start."
        )
    part = samples[first:last]
    mono = _mix(part, path)
    if rate != file_rate:
        ratio = Fraction(rate, file_rate)
        mono = filters.resample_poly(
            mono, ratio.numerator, ratio.denominator, padtype="line"
        )
    if len(mono) < MIN_SAMPLES:
        raise OptionError(
            f"{seconds} s of the sound {path} are {len(mono)} samples. Ask for "
            f"{MIN_SAMPLES} or more."
        )
    fingerprint = {
        "file": path.name,
        "bytes": len(data),
        "sha256": digest(data),
        "seconds": seconds,
        "start": start,
        "rate": rate,
        "scipy": importlib.metadata.version("scipy"),
    }
    return sampled(at_peak_1(mono)[:, None], path.stem, fingerprint)


def at_peak_1(samples: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "samples"]:
    """The samples, divided by the largest absolute value.

    Args:
      samples: `[samples]`, not all 0.

    Returns:
      `[samples]` in [-1, 1].

    Example:
      >>> at_peak_1(np.array([0.1, -0.4])).tolist()
      [0.25, -1.0]
    """
    return samples / np.abs(samples).max()


def check_rate(rate: float) -> None:
    """Refuse what is not a whole number of samples per second.

    Args:
      rate: 1,000 to 192,000.

    Raises:
      OptionError: it is something else.
    """
    if isinstance(rate, bool) or not 1_000 <= rate <= 192_000 or rate != int(rate):
        raise OptionError(
            f"a sound's rate is {rate!r}. Give samples per second, a whole number from "
            "1000 to 192000, such as 8000."
        )


def _check_times(seconds: float, start: float) -> None:
    if isinstance(seconds, bool) or not math.isfinite(seconds) or seconds <= 0:
        raise OptionError(f"a sound lasts {seconds!r} s. Give a positive number.")
    if isinstance(start, bool) or not math.isfinite(start) or start < 0:
        raise OptionError(f"a sound starts at {start!r} s. Give 0 or more.")


def _decode(data: bytes, path: Path) -> tuple[int, np.ndarray]:
    """`(samples per second, [samples, channels] as stored)`."""
    try:
        with warnings.catch_warnings():
            # of unknown chunks, and of a file cut short: the length says whether it is
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            rate, samples = wavfile.read(io.BytesIO(data))
        if rate < 1:
            raise ValueError(f"{rate} samples per second")
    except Exception as error:  # scipy documents none, and raises many
        raise OptionError(
            f"the sound {path} does not decode ({error or type(error).__name__}). Give "
            "a WAV file of integers or floating-point numbers (PCM)."
        ) from error
    return rate, samples[:, None] if samples.ndim == 1 else samples


def _mix(part: np.ndarray, path: Path) -> Float[np.ndarray, "samples"]:
    """Scale to [-1, 1], check, and average the channels."""
    if not np.isfinite(part).all():
        raise OptionError(
            f"the sound {path} has samples that are not finite. Export it again as "
            "16-bit PCM."
        )
    scaled = part.astype(np.float64)
    if part.dtype == np.uint8:  # 128 is zero
        scaled = (scaled - 128) / 127
    elif np.issubdtype(part.dtype, np.integer):
        scaled /= np.iinfo(part.dtype).max
    clipped = max(_clipped_share(channel) for channel in scaled.T)
    if clipped > MAX_CLIPPED:
        raise OptionError(
            f"the sound {path} is clipped: {100 * clipped:.2g} % of its samples are in "
            f"runs of {CLIPPED_RUN} or more at full scale. Record or export it at a "
            "lower level, or choose another part."
        )
    mono = scaled.mean(axis=1)
    if np.abs(mono - mono.mean()).max() < MIN_PEAK:
        raise OptionError(
            f"the sound {path} is silent in the part asked for. Choose another start."
        )
    return mono


def _clipped_share(channel: Float[np.ndarray, "samples"]) -> float:
    """The share of samples in runs of equal ones at full scale."""
    starts = np.flatnonzero(np.diff(channel, prepend=np.nan) != 0)
    lengths = np.diff(starts, append=len(channel))
    is_clipped = (np.abs(channel[starts]) >= _FULL_SCALE) & (lengths >= CLIPPED_RUN)
    return float(lengths[is_clipped].sum() / len(channel))
