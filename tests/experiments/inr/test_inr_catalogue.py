"""Which signal a seed has."""

import json

import numpy as np
import pytest

from experiments.inr import clips, pictures, shapes
from experiments.inr.catalogue import KINDS, names_of, signal_of_seed
from experiments.study.options import OptionError

MODULES = {"picture": pictures, "sound": clips, "shape": shapes}
SIZES = {"picture": 16, "sound": 800, "shape": 10}


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_go_through_the_signals(kind):
    module, size = MODULES[kind], SIZES[kind]
    for first, names in ((100, [*module.TUNING]), (200, [*module.REPORTED])):
        signals = [signal_of_seed(kind, first + i, size) for i in range(len(names))]
        assert [signal.name for signal in signals] == names
        again = signal_of_seed(kind, first + len(names), size)
        assert again.name == names[0]
        assert again.fingerprint != signals[0].fingerprint
        assert np.abs(again.values - signals[0].values).max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_depends_on_its_seed_alone(kind):
    for seed in (0, 99, 100, 150, 200, 250, 999):
        signal = signal_of_seed(kind, seed, SIZES[kind])
        np.random.default_rng().random()
        again = signal_of_seed(kind, seed, SIZES[kind])
        np.testing.assert_array_equal(signal.values, again.values)
        assert signal.fingerprint == again.fingerprint
        assert json.loads(json.dumps(signal.fingerprint)) == signal.fingerprint
        is_reported = signal.name in MODULES[kind].REPORTED
        assert is_reported == (seed >= 200)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_of_any_round_differ(kind):
    fingerprints = [
        json.dumps(signal_of_seed(kind, seed, SIZES[kind]).fingerprint)
        for seed in [*range(0, 100, 9), *range(100, 125), *range(200, 230)]
    ]
    assert len(set(fingerprints)) == len(fingerprints)


# Printed by: signal_of_seed(kind, 230, SIZES[kind]).values[::stride, 0]
GOLDEN = {
    "picture": (
        32,
        [-0.0588, -0.1843, -0.2471, -0.2627, -0.3098, -0.302, -0.3647, -0.3961],
    ),
    "sound": (
        100,
        [-0.6043, -0.1024, -0.1641, 0.0496, 0.0733, 0.001, -0.0663, -0.0772],
    ),
    "shape": (125, [1.0, 0.8382, 1.0, 0.1303, 1.0, -0.0388, 1.0, 1.0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_machine_has_the_same_signals(kind):
    stride, expected = GOLDEN[kind]
    signal = signal_of_seed(kind, 230, SIZES[kind])
    np.testing.assert_allclose(signal.values[::stride, 0], expected, atol=2e-4)


def test_large_pictures():
    assert len(names_of("picture", 512, reported=True)) >= 10
    assert len(names_of("picture", 512, reported=False)) >= 4
    assert "chelsea" not in names_of("picture", 512, reported=True)
    assert names_of("picture", 1_024, reported=True) == ["galaxies", "retina"]
    with pytest.raises(OptionError, match="no shipped picture is large enough"):
        names_of("picture", 1_024, reported=False)


def test_sounds_have_a_rate():
    signal = signal_of_seed("sound", 200, 1_000, rate=11_025)
    assert signal.shape == (1_000,)
    assert signal.fingerprint["rate"] == 11_025


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("film", 200, 16), "Choose one of picture, sound, shape"),
        (("picture", -1, 16), "0 or more"),
        (("picture", 1.5, 16), "0 or more"),
        (("picture", 200, 5), "11 or more"),
        (("sound", 200, 5), r"0\.008 s or more"),
        (("shape", 200, 5), "8 or more"),
    ],
)
def test_what_is_refused(arguments, reason):
    with pytest.raises(OptionError, match=reason):
        signal_of_seed(*arguments)
    with pytest.raises(OptionError, match="rate"):
        signal_of_seed("sound", 200, 1_000, rate=0)
