"""Sounds: WAV files that are read or refused, and clips that are made."""

import wave

import numpy as np
import pytest
from scipy.io import wavfile

from experiments.inr import clips
from experiments.inr.clips import make_clip
from experiments.inr.sounds import load_sound
from experiments.study.options import OptionError

RATE = 8_000


def tone(frequency=220.0, seconds=0.5, rate=RATE, peak=0.8):
    time = np.arange(round(seconds * rate)) / rate
    return peak * np.sin(2 * np.pi * frequency * time)


def written(tmp_path, samples, rate=RATE):
    path = tmp_path / "my sound.wav"
    wavfile.write(path, rate, samples)
    return path


def written_24_bit(tmp_path, samples):
    path = tmp_path / "my sound.wav"
    as_int32 = np.round(samples * (2**23 - 1)).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(RATE)
        file.writeframes(as_int32.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    return path


FORMATS = {
    "8 bits": (lambda x: np.round(128 + 127 * x).astype(np.uint8), 1 / 127),
    "16 bits": (lambda x: np.round(32_767 * x).astype(np.int16), 1e-4),
    "32 bits": (lambda x: np.round((2**31 - 1) * x).astype(np.int32), 1e-6),
    "float32": (lambda x: x.astype(np.float32), 1e-6),
    "stereo": (lambda x: np.stack([1.2 * x, 0.8 * x], 1).astype(np.float32), 1e-6),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_hold_the_same_sound(kind, tmp_path):
    stored, tolerance = FORMATS[kind]
    signal = load_sound(written(tmp_path, stored(tone())), 0.5)
    assert signal.shape == (4_000,)
    assert signal.name == "my sound"
    assert signal.values.dtype == signal.coordinates.dtype == np.float32
    expected = tone() / np.abs(tone()).max()
    np.testing.assert_allclose(signal.values[:, 0], expected, atol=2 * tolerance)
    np.testing.assert_allclose(signal.coordinates[[0, -1], 0], [-1, 1])
    assert (np.diff(signal.coordinates[:, 0]) > 0).all()


def test_24_bits(tmp_path):
    signal = load_sound(written_24_bit(tmp_path, tone()), 0.5)
    expected = tone() / np.abs(tone()).max()
    np.testing.assert_allclose(signal.values[:, 0], expected, atol=1e-6)


def test_the_part_asked_for(tmp_path):
    samples = np.linspace(0.1, 0.9, RATE).astype(np.float32)
    signal = load_sound(written(tmp_path, samples), 0.25, start=0.5)
    np.testing.assert_allclose(
        signal.values[:, 0], samples[4_000:6_000] / samples[5_999], rtol=1e-5
    )


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050])
def test_resampling_keeps_the_tone(rate, tmp_path):
    path = written(tmp_path, tone(300, rate=16_000).astype(np.float32), 16_000)
    signal = load_sound(path, 0.5, rate=rate)
    assert abs(signal.shape[0] - rate / 2) <= 1
    expected = tone(300, rate=rate, peak=1)
    middle = slice(200, 3_000)
    np.testing.assert_allclose(
        signal.values[middle, 0], expected[middle], atol=0.02 if rate != 16_000 else 0
    )


def test_resampling_removes_what_it_cannot_hold(tmp_path):
    both = tone(300, rate=16_000, peak=0.4) + tone(6_000, rate=16_000, peak=0.4)
    signal = load_sound(
        written(tmp_path, both.astype(np.float32), 16_000), 0.5, rate=RATE
    )
    spectrum = np.abs(np.fft.rfft(signal.values[:, 0]))
    hertz = np.fft.rfftfreq(signal.shape[0], 1 / RATE)
    folded = spectrum[(hertz > 1_900) & (hertz < 2_100)].max()
    assert folded < 0.01 * spectrum.max()


def test_full_scale_alone_is_not_clipped(tmp_path):
    path = written(tmp_path, FORMATS["16 bits"][0](tone(peak=1.0)))
    assert load_sound(path, 0.5).values.max() == 1


def test_a_few_clipped_samples_pass(tmp_path):
    samples = tone()
    samples[100:103] = 1
    path = written(tmp_path, FORMATS["16 bits"][0](samples))
    assert load_sound(path, 0.5).shape == (4_000,)
    samples[200:203] = -1
    path = written(tmp_path, FORMATS["16 bits"][0](samples))
    with pytest.raises(OptionError, match=r"0\.15 % of its samples"):
        load_sound(path, 0.5)


def clipped(samples):
    return np.clip(1.5 * samples, -1, 1)


def with_nan(samples):
    samples[7] = np.nan
    return samples


BAD = {
    "empty": (lambda: np.zeros(0, np.int16), "is empty"),
    "short": (lambda: tone(seconds=0.4).astype(np.float32), r"0\.4 s, shorter than"),
    "silent": (lambda: np.zeros(RATE, np.int16), "is silent"),
    "quiet": (lambda: (5e-4 * tone()).astype(np.float32), "is silent"),
    "constant": (lambda: np.full(RATE, 0.5, np.float32), "is silent"),
    "opposite": (lambda: np.stack([tone(), -tone()], 1).astype(np.float32), "silent"),
    "clipped": (lambda: FORMATS["16 bits"][0](clipped(tone())), "clipped: 38 %"),
    "clipped left": (
        lambda: np.stack([clipped(tone()), tone()], 1).astype(np.float32),
        "clipped",
    ),
    "clipped bytes": (lambda: FORMATS["8 bits"][0](clipped(tone())), "clipped"),
    "nan": (lambda: with_nan(tone().astype(np.float32)), "not finite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_sound_that_is_refused(kind, tmp_path):
    samples, reason = BAD[kind]
    path = written(tmp_path, samples())
    with pytest.raises(OptionError, match=reason) as refusal:
        load_sound(path, 0.5)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("length", [0, 3, 20, 44, 1_001])
def test_a_file_that_is_cut_short(length, tmp_path):
    path = written(tmp_path, FORMATS["16 bits"][0](tone()))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OptionError, match=r"does not decode|is empty|shorter"):
        load_sound(path, 0.5)


def test_what_is_no_sound(tmp_path):
    path = tmp_path / "song.mp3"
    path.write_bytes(b"ID3" + bytes(500))
    with pytest.raises(OptionError, match=r"song\.mp3 does not decode.*Give a WAV"):
        load_sound(path, 0.5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"seconds": 0}, "positive"),
        ({"seconds": float("nan")}, "positive"),
        ({"seconds": 1.0, "start": -1.0}, "0 or more"),
        ({"seconds": 1.0, "rate": 0}, "1000 to 192000"),
        ({"seconds": 1.0, "rate": 8_000.5}, "1000 to 192000"),
        ({"seconds": 1.0, "rate": float("nan")}, "1000 to 192000"),
    ],
)
def test_arguments_are_refused_before_the_file_is_read(arguments, reason):
    with pytest.raises(OptionError, match=reason):
        load_sound("missing.wav", **arguments)


def test_too_few_samples(tmp_path):
    path = written(tmp_path, tone().astype(np.float32))
    with pytest.raises(OptionError, match=r"40 samples\. Ask for 64 or more"):
        load_sound(path, 0.005)


NAMES = (*clips.REPORTED, *clips.TUNING)


def test_enough_clips():
    assert len(clips.REPORTED) >= 5
    assert len(clips.TUNING) >= 3
    assert not clips.REPORTED.keys() & clips.TUNING.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_a_sound(name):
    signal = make_clip(name, 1.0)
    samples = signal.values[:, 0]
    assert signal.shape == (8_000,)
    assert np.abs(samples).max() == 1
    assert abs(samples.mean()) < 0.01
    # heard in every half second, from the first samples on, and not only as noise
    assert np.std(samples.reshape(2, -1), axis=1).min() > 0.05
    assert np.abs(samples[:64]).max() > 0.01
    spectrum = np.sort(np.abs(np.fft.rfft(samples)) ** 2)
    assert spectrum[-400:].sum() > 0.5 * spectrum.sum()  # of 4,001
    # the seed alone decides
    np.testing.assert_array_equal(make_clip(name, 1.0, seed=0).values, signal.values)
    other = make_clip(name, 1.0, seed=3)
    assert np.abs(other.values - signal.values).max() > 0.1
    assert other.fingerprint != signal.fingerprint


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [8_000, 11_025])
def test_a_clip_of_any_length(name, rate):
    for num_samples in (64, 999, 3 * rate):
        signal = make_clip(name, num_samples / rate, rate)
        assert signal.shape == (num_samples,)
        assert np.isfinite(signal.values).all()


@pytest.mark.parametrize("hertz", [82.4, 164.8, 220.0, 391.9, 523.3])
def test_a_string_is_in_tune(hertz):
    note = clips._pluck(np.random.default_rng(0), hertz, 2.0, RATE)
    padded = np.abs(np.fft.rfft(note * np.hanning(len(note)), 1 << 17))
    frequencies = np.fft.rfftfreq(1 << 17, 1 / RATE)
    near = (frequencies > 0.8 * hertz) & (frequencies < 1.2 * hertz)
    heard = frequencies[near][padded[near].argmax()]
    assert abs(12 * np.log2(heard / hertz)) < 0.05  # semitones


@pytest.mark.parametrize("vowel", ["i", "e", "a"])
def test_a_vowel_resonates_at_its_formants(vowel):
    impulse = np.zeros(RATE)
    impulse[0] = 1
    formants = clips._VOWELS[vowel]
    response = np.abs(np.fft.rfft(clips._formants(impulse, formants, RATE)))
    peaks = 1 + np.flatnonzero(
        (response[1:-1] > response[:-2]) & (response[1:-1] > response[2:])
    )
    np.testing.assert_allclose(peaks, formants, rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "tuba", "seconds": 1.0}, "'tuba'. There are strings, bells"),
        ({"name": "bells", "seconds": 0.001}, r"give 0\.008 s or more"),
        ({"name": "bells", "seconds": float("inf")}, "lasts inf s"),
        ({"name": "bells", "seconds": 1.0, "rate": 4_000}, "8000 samples per second"),
    ],
)
def test_a_clip_that_is_refused(arguments, reason):
    with pytest.raises(OptionError, match=reason):
        make_clip(**arguments)
