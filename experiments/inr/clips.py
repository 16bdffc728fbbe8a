"""Sounds to fit that are made here: instruments, drums and vowels.

Every machine makes the same clips, and needs no file. A clip is a performance of its
instrument: the notes depend on the seed, the sound of the instrument does not.

Reference:
  Karplus and Strong, "Digital synthesis of plucked-string and drum timbres", 1983.
  Chowning, "The synthesis of complex audio spectra by means of frequency modulation",
  1973. Peterson and Barney, "Control methods used in a study of the vowels", 1952, for
  the formants.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import scipy
from jaxtyping import Float
from scipy import signal as filters

from experiments.inr.signals import Signal, sampled
from experiments.inr.sounds import MIN_SAMPLES, at_peak_1, check_rate
from experiments.study.options import OptionError

Samples: TypeAlias = Float[np.ndarray, "samples"]

MIN_RATE = 8_000
"""Drums and consonants have energy up to 3.6 kHz."""

_PENTATONIC = (0, 2, 4, 7, 9)
_DRAWBARS = ((1, 1), (2, 0.7), (3, 0.5), (4, 0.4), (6, 0.2))  # partial, loudness
_VOWELS = {  # the first three formants, in Hz
    "i": (270, 2290, 3010),
    "e": (530, 1840, 2480),
    "a": (730, 1090, 2440),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}


def make_clip(name: str, seconds: float, rate: int = 8_000, *, seed: int = 0) -> Signal:
    """A sound of `REPORTED` or `TUNING`.

    Args:
      name: a key of either.
      seconds: its length, for at least `MIN_SAMPLES` samples.
      rate: samples per second, `MIN_RATE` or more.
      seed: of the notes and noises.

    Returns:
      A signal of shape `(samples,)` and one channel, scaled to a largest absolute value
      of 1. The coordinate is time, -1 to 1.

    Raises:
      OptionError: there is no such clip, or the length or the rate is too small.

    Example:
      >>> make_clip("strings", seconds=0.5).shape
      (4000,)
    """
    clips = REPORTED | TUNING
    if name not in clips:
        raise OptionError(f"no clip is named {name!r}. There are {', '.join(clips)}.")
    check_rate(rate)
    if rate < MIN_RATE:
        raise OptionError(
            f"a clip's rate is {rate!r}. Give {MIN_RATE} samples per second or more."
        )
    if not math.isfinite(seconds) or round(seconds * rate) < MIN_SAMPLES:
        raise OptionError(
            f"a clip lasts {seconds!r} s. At {rate} samples per second, give "
            f"{MIN_SAMPLES / rate} s or more."
        )
    num_samples = round(seconds * rate)
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    samples = _in_a_room(rng, clips[name](rng, num_samples, rate), rate)
    fingerprint = {
        "clip": name,
        "seconds": seconds,
        "rate": rate,
        "seed": seed,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    return sampled(at_peak_1(samples)[:, None], name, fingerprint)


def _in_a_room(rng: np.random.Generator, samples: Samples, rate: int) -> Samples:
    """With an echo that decays within a third of a second, and a little noise."""
    time = np.arange(rate // 3) / rate
    echo = 0.02 * rng.normal(size=len(time)) * np.exp(-time / 0.06)
    echo[0] = 1
    wet = filters.fftconvolve(samples, echo)[: len(samples)]
    return wet + 3e-4 * np.abs(wet).max() * rng.normal(size=len(wet))


def _melody(
    rng: np.random.Generator, low: int, span: int, beat: float, seconds: float
) -> list[tuple[float, float]]:
    """`(start in seconds, frequency)` of a random walk on a pentatonic scale."""
    scale = [12 * octave + step for octave in range(span) for step in _PENTATONIC]
    notes, at, place = [], 0.0, int(rng.integers(len(scale)))
    while at < seconds:
        notes.append((at, _hertz(low + scale[place])))
        at += beat * rng.choice([0.5, 1.0, 1.0, 1.5])
        place = int(np.clip(place + rng.choice([-2, -1, 1, 2]), 0, len(scale) - 1))
    return notes


def _hertz(midi: float) -> float:
    return 440 * 2 ** ((midi - 69) / 12)


def _add(track: Samples, note: Samples, start: float, rate: int) -> None:
    first = round(start * rate)
    note = note[: len(track) - first]
    track[first : first + len(note)] += note


def _filtered(
    numerator: Sequence[float], denominator: Sequence[float] | Samples, samples: Samples
) -> Samples:
    return np.asarray(filters.lfilter(numerator, denominator, samples))


def _band(noise: Samples, low: float, high: float, rate: int) -> Samples:
    sections = filters.butter(2, [low, high], "bandpass", fs=rate, output="sos")
    return np.asarray(filters.sosfilt(sections, noise))


def _pluck(
    rng: np.random.Generator, frequency: float, seconds: float, rate: int
) -> Samples:
    """A plucked string: a burst of noise in a damped delay line."""
    delay = rate / frequency - 0.5  # the averaging filter delays by half a sample
    whole, part = int(delay), delay % 1
    burst = np.zeros(round(seconds * rate))
    noise = rng.uniform(-1, 1, size=whole)
    burst[:whole] = (noise - noise.mean())[: len(burst)]  # a mean would decay slowly
    loop = np.zeros(whole + 3)
    loop[0] = 1
    loop[whole:] = -0.996 * np.convolve([1 - part, part], [0.5, 0.5])
    return _filtered([1.0], loop, _filtered([0.6], [1, -0.4], burst))


def _strings(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    return _plucked(rng, num_samples, rate, low=52, span=2, beat=0.22)


def _bass(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    return _plucked(rng, num_samples, rate, low=31, span=1, beat=0.3)


def _plucked(
    rng: np.random.Generator,
    num_samples: int,
    rate: int,
    *,
    low: int,
    span: int,
    beat: float,
) -> Samples:
    track = np.zeros(num_samples)
    for start, frequency in _melody(rng, low, span, beat, num_samples / rate):
        note = rng.uniform(0.6, 1) * _pluck(rng, frequency, 1.5, rate)
        _add(track, note, start, rate)
    return track


def _bells(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    return _struck(rng, num_samples, rate, low=67, ratio=1.4, depth=4, decay=0.8)


def _chimes(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    return _struck(rng, num_samples, rate, low=72, ratio=2.76, depth=1.5, decay=0.5)


def _struck(
    rng: np.random.Generator,
    num_samples: int,
    rate: int,
    *,
    low: int,
    ratio: float,
    depth: float,
    decay: float,
) -> Samples:
    """Struck metal: a sine whose phase a second, inharmonic sine modulates."""
    track = np.zeros(num_samples)
    time = np.arange(2 * rate) / rate
    for start, frequency in _melody(rng, low, 1, 0.35, num_samples / rate):
        fading = depth * np.exp(-time / (decay / 2))
        phase = 2 * np.pi * frequency * time
        note = np.sin(phase + fading * np.sin(ratio * phase)) * np.exp(-time / decay)
        _add(track, rng.uniform(0.6, 1) * note, start, rate)
    return track


def _organ(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    """Chords of drawbar partials with vibrato, and the pipes' breath."""
    time = np.arange(num_samples) / rate
    vibrato = 0.003 * np.sin(2 * np.pi * 5.5 * time) / 5.5
    track = np.zeros(num_samples)
    for start in np.arange(0, num_samples / rate, 0.6):
        envelope = _hold(time - start, length=0.6, rise=0.04)
        root = 48 + int(rng.choice([0, 5, 7, 9]))
        for interval in (0, 4, 7, 12):
            pitch = _hertz(root + interval)
            for partial, gain in _DRAWBARS:
                phase = 2 * np.pi * pitch * partial * (time + vibrato)
                track += gain * envelope * np.sin(phase + rng.uniform(0, 2 * np.pi))
    breath = _band(rng.normal(size=num_samples), 300, 3_000, rate)
    return track + 0.15 * breath


def _hold(time: Samples, length: float, rise: float) -> Samples:
    """An envelope: 1 during the note, with a soft rise and fall."""
    return np.clip(time / rise, 0, 1) * np.clip((length - time) / rise + 1, 0, 1)


def _flute(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    time = np.arange(num_samples) / rate
    track = np.zeros(num_samples)
    notes = _melody(rng, 72, 1, 0.4, num_samples / rate)
    ends = [start for start, _ in notes[1:]] + [num_samples / rate]
    hiss = _band(rng.normal(size=num_samples), 800, 3_500, rate)
    for (start, frequency), end in zip(notes, ends, strict=True):
        envelope = _hold(time - start, length=end - start - 0.05, rise=0.05)
        vibrato = 1 + 0.1 * np.sin(2 * np.pi * 5 * time)
        phase = 2 * np.pi * frequency * (time + 6e-5 * np.sin(2 * np.pi * 5 * time))
        tone = np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.1 * np.sin(3 * phase)
        track += envelope * (vibrato * tone + 0.1 * hiss)
    return track


def _drums(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    """Sixteenths at 120 beats per minute: bass drum, snare drum and hi-hat."""
    track = np.zeros(num_samples)
    time = np.arange(rate // 2) / rate
    sweep = 45 * time + 75 * 0.03 * (1 - np.exp(-time / 0.03))
    for step, start in enumerate(np.arange(0, num_samples / rate, 0.125)):
        noise = rng.normal(size=len(time))
        loudness = rng.uniform(0.7, 1)
        if step % 8 == 0 or rng.random() < 0.1:
            kick = np.sin(2 * np.pi * sweep) * np.exp(-time / 0.12)
            _add(track, 1.2 * loudness * kick, start, rate)
        if step % 8 == 4:
            rattle = _band(noise, 900, 3_600, rate) * np.exp(-time / 0.06)
            body = np.sin(2 * np.pi * 185 * time) * np.exp(-time / 0.05)
            _add(track, loudness * (0.7 * rattle + 0.6 * body), start, rate)
        if step % 2 == 0 or rng.random() < 0.3:
            hat = _band(noise, 2_500, 3_900, rate) * np.exp(-time / 0.02)
            _add(track, 0.4 * loudness * hat, start, rate)
    return track


def _speech(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    return _spoken(rng, num_samples, rate, pitch=115, syllable=0.19, consonants=0.25)


def _chant(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    return _spoken(rng, num_samples, rate, pitch=196, syllable=0.45, consonants=0.0)


def _spoken(
    rng: np.random.Generator,
    num_samples: int,
    rate: int,
    *,
    pitch: float,
    syllable: float,
    consonants: float,
) -> Samples:
    """Syllables: hisses, and vowels as glottal pulses through formant filters."""
    time = np.arange(num_samples) / rate
    drift = 0.06 * np.sin(2 * np.pi * 0.9 * time + rng.uniform(0, 6))
    drift += 0.01 * np.sin(2 * np.pi * 5.3 * time)
    phase = np.cumsum(pitch * (1 + drift)) / rate
    pulses = np.diff(np.floor(phase), prepend=-1.0)  # one at once, then every period
    # the throat softens the pulses, the lips radiate changes only
    glottal = _filtered([1.0, -1.0], [1, -1.8, 0.81], pulses)
    vowels = {
        vowel: at_peak_1(_formants(glottal, formants, rate))
        for vowel, formants in _VOWELS.items()
    }
    hiss = _band(rng.normal(size=num_samples), 2_000, 3_800, rate)
    track = np.zeros(num_samples)
    at = 0.0
    while at < num_samples / rate:
        if at and rng.random() < consonants * 2:
            length = rng.uniform(0.04, 0.08)
            track += consonants * hiss * _hold(time - at, length, rise=0.015)
            at += length
        length = syllable * rng.uniform(0.7, 1.3)
        vowel = vowels[str(rng.choice(list(_VOWELS)))]
        track += rng.uniform(0.6, 1) * vowel * _hold(time - at, length, rise=0.03)
        at += length + (0.08 if rng.random() < consonants else 0)
    return track


def _formants(glottal: Samples, formants: tuple[int, ...], rate: int) -> Samples:
    """The pulses through one resonance after the other."""
    for center, width in zip(formants, (80, 100, 140), strict=True):
        pole = math.exp(-math.pi * width / rate)
        turn = 2 * pole * math.cos(2 * math.pi * center / rate)
        glottal = _filtered([1 - turn + pole**2], [1, -turn, pole**2], glottal)
    return glottal


def _ensemble(rng: np.random.Generator, num_samples: int, rate: int) -> Samples:
    """Strings and drums over an organ."""
    track = np.zeros(num_samples)
    for gain, part in ((1.0, _strings), (0.7, _drums), (0.25, _organ)):
        track += gain * at_peak_1(part(rng, num_samples, rate))
    return track


REPORTED: dict[str, Callable[[np.random.Generator, int, int], Samples]] = {
    "strings": _strings,
    "bells": _bells,
    "organ": _organ,
    "drums": _drums,
    "speech": _speech,
    "ensemble": _ensemble,
}
"""Clips that results are reported on, by name."""

TUNING: dict[str, Callable[[np.random.Generator, int, int], Samples]] = {
    "flute": _flute,
    "bass": _bass,
    "chimes": _chimes,
    "chant": _chant,
}
"""Other clips, for finding learning rates."""
