"""Shapes: distances against brute force, and properties that all shapes share."""

import numpy as np
import pytest

from experiments.inr import shapes
from experiments.inr.shapes import make_shape
from experiments.study.options import OptionError

ALL = shapes.REPORTED | shapes.TUNING


def somewhere(num_points, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, size=(num_points, 3))


def circle(num_points):
    turns = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([np.cos(turns), np.sin(turns)], axis=-1)


def nearest(points, surface):
    gaps = np.linalg.norm(points[:, None] - surface[None], axis=-1)
    return gaps.min(axis=1)


def test_distance_to_a_ball():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0.5, 0.5, 0]])
    distances = shapes.sphere(points, (0.5, 0, 0), 0.25)
    np.testing.assert_allclose(distances, [0.25, 0.25, 0.25])
    assert shapes.sphere(np.array([[0.5, 0, 0]]), (0.5, 0, 0), 0.25) == -0.25


def test_distance_to_a_box():
    center, half = np.array([0.1, -0.2, 0.0]), np.array([0.5, 0.3, 0.4])
    step = np.linspace(-1, 1, 41)
    u, v = (axis.ravel() for axis in np.meshgrid(step, step))
    faces = [
        np.insert(np.stack([u, v], axis=-1), axis, side, axis=1)
        for axis in range(3)
        for side in (-1, 1)
    ]
    surface = center + half * np.concatenate(faces)
    points = somewhere(60)
    distances = shapes.box(points, tuple(center), tuple(half))
    np.testing.assert_allclose(np.abs(distances), nearest(points, surface), atol=0.03)
    is_inside = (np.abs(points - center) < half).all(axis=1)
    np.testing.assert_array_equal(distances < 0, is_inside)


def test_a_rounded_box_has_the_same_faces_and_no_corners():
    points = np.array([[0.5, 0, 0], [0, 0, -0.5], [0.5, 0.5, 0.5]])
    distances = shapes.box(points, (0, 0, 0), (0.5, 0.5, 0.5), rounding=0.1)
    np.testing.assert_allclose(distances, [0, 0, 0.1 * (3**0.5 - 1)], atol=1e-12)


def test_distance_to_a_ring():
    center, major, minor = np.array([0.1, 0.0, -0.1]), 0.5, 0.2
    along, around = circle(120), circle(40)
    reach = major + minor * around[:, :1]
    surface = np.concatenate(
        [np.hstack([reach * turn, minor * around[:, 1:]]) for turn in along]
    )
    points = somewhere(60)
    distances = shapes.torus(points, tuple(center), major, minor)
    expected = nearest(points, center + surface)
    np.testing.assert_allclose(np.abs(distances), expected, atol=0.03)
    ring = center + major * np.hstack([along, np.zeros((120, 1))])
    gaps = nearest(points, ring)
    np.testing.assert_allclose(distances, gaps - minor, atol=0.01)


def test_distance_to_a_capsule():
    start, end = np.array([-0.4, 0.1, 0]), np.array([0.3, 0.5, -0.2])
    line = start + np.linspace(0, 1, 2_001)[:, None] * (end - start)
    points = somewhere(60)
    distances = shapes.capsule(points, start, end, 0.15)
    np.testing.assert_allclose(distances, nearest(points, line) - 0.15, atol=1e-3)


def test_distance_to_a_cylinder():
    radius, half = 0.4, 0.5
    rims = circle(100)
    side = [
        np.insert(radius * rims, 2, z, axis=1) for z in np.linspace(-half, half, 41)
    ]
    caps = [
        np.insert(share * radius * rims, 2, z, axis=1)
        for share in np.linspace(0, 1, 20)
        for z in (-half, half)
    ]
    points = somewhere(60)
    distances = shapes.cylinder(points, (0, 0, 0), radius, half)
    surface = np.concatenate([*side, *caps])
    np.testing.assert_allclose(np.abs(distances), nearest(points, surface), atol=0.03)
    is_inside = (np.hypot(*points[:, :2].T) < radius) & (np.abs(points[:, 2]) < half)
    np.testing.assert_array_equal(distances < 0, is_inside)


def test_blends_touch_only_what_is_close():
    first, second = np.random.default_rng(0).uniform(-1, 1, size=(2, 500))
    blended = shapes.smooth_union(first, second, 0.2)
    union = np.minimum(first, second)
    is_far = np.abs(first - second) >= 0.2
    np.testing.assert_allclose(blended[is_far], union[is_far])
    assert (blended <= union + 1e-12).all()
    assert (blended >= union - 0.05 - 1e-12).all()  # at most a quarter of the width
    np.testing.assert_allclose(blended, shapes.smooth_union(second, first, 0.2))
    carved = shapes.smooth_difference(first, second, 0.2)
    difference = np.maximum(first, -second)
    is_far = np.abs(first + second) >= 0.2
    np.testing.assert_allclose(carved[is_far], difference[is_far])
    assert (carved >= difference - 1e-12).all()


@pytest.mark.parametrize("name", ALL)
def test_no_value_is_more_than_the_distance(name):
    points = somewhere(2_000)
    moves = 0.05 * np.random.default_rng(1).normal(size=points.shape)
    changes = np.abs(ALL[name](points + moves) - ALL[name](points))
    assert (changes <= np.linalg.norm(moves, axis=-1) + 1e-9).all()


@pytest.mark.parametrize("name", ALL)
def test_a_shape_fits_its_ball_and_is_not_empty(name):
    points = 1.5 * somewhere(4_000)
    is_outside = np.linalg.norm(points, axis=-1) >= shapes.RADIUS
    assert (ALL[name](points[is_outside]) > 0).all()
    signal = make_shape(name, 24)
    assert signal.shape == (24, 24, 24)
    assert signal.values.shape == (24**3, 1)
    assert signal.values.dtype == signal.coordinates.dtype == np.float32
    assert 0.015 < (signal.values < 0).mean() < 0.25
    assert signal.values.max() == 1
    assert signal.values.min() >= -1


INSIDE_AND_OUTSIDE = {
    "mug": ([(-0.15, 0, -0.53), (0.56, 0, 0)], [(-0.15, 0, 0), (0.4, 0, 0)]),
    "chain": ([(0.14, 0, 0), (-0.14, 0, 0)], [(-0.28, 0, 0.2), (0.28, 0.2, 0)]),
    "die": ([(0, 0, 0), (0.45, 0.3, 0)], [(0, 0, 0.49), (0.49, 0.24, 0.24)]),
    "jack": ([(0, 0, 0), (0, -0.8, 0)], [(0.5, 0.5, 0), (0.3, 0, 0.3)]),
    "knot": ([(0.72, 0, 0)], [(0, 0, 0), (0, 0, 0.5)]),
    "gear": ([(0.3, 0, 0), (0.8, 0, 0)], [(0, 0, 0), (0.42, 0, 0), (0.3, 0, 0.2)]),
    "snowman": ([(0, 0, -0.5), (0.35, 0, 0.47)], [(0.4, 0, 0.1)]),
    "cheese": ([(0, 0, 0)], [(0.8, 0, 0)]),
    "table": ([(0, 0, 0.4), (0.53, -0.34, -0.3)], [(0, 0, 0), (0, 0, 0.5)]),
}


@pytest.mark.parametrize("name", ALL)
def test_what_is_inside(name):
    inside, outside = INSIDE_AND_OUTSIDE[name]
    assert (ALL[name](np.array(inside, np.float64)) < 0).all()
    assert (ALL[name](np.array(outside, np.float64)) > 0).all()


def test_values_are_distances_in_the_documented_scale():
    signal = make_shape("chain", 64)
    points = signal.coordinates.astype(np.float64)
    expected = np.clip(ALL["chain"](points) / 0.5, -1, 1)
    np.testing.assert_allclose(signal.values[:, 0], expected, atol=1e-6)
    # two rings apart, by Pappus: 2 π R · π r² each
    volume = 2 * (2 * np.pi * 0.42) * (np.pi * 0.12**2)
    cell = (2 / 63) ** 3
    assert np.count_nonzero(signal.values < 0) * cell == pytest.approx(volume, rel=0.03)


def test_slabs_make_one_shape(monkeypatch):
    whole = make_shape("mug", 12, rotation_seed=1)
    monkeypatch.setattr(shapes, "_SLAB", 100)
    in_slabs = make_shape("mug", 12, rotation_seed=1)
    np.testing.assert_allclose(in_slabs.values, whole.values, atol=1e-6)


def test_rotations():
    upright = make_shape("table", 40)
    turned, again, other = (
        make_shape("table", 40, rotation_seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(turned.values, again.values)
    for one, two in ((turned, upright), (turned, other)):
        assert np.abs(one.values - two.values).max() > 0.5
        assert one.fingerprint != two.fingerprint
        volumes = [np.count_nonzero(signal.values < 0) for signal in (one, two)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    for seed in range(20):
        rotation = shapes._rotation(seed)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)  # no mirror image


def test_enough_shapes():
    assert len(shapes.REPORTED) >= 6
    assert not shapes.REPORTED.keys() & shapes.TUNING.keys()


def test_a_shape_that_is_refused():
    with pytest.raises(OptionError, match=r"'bunny'\. There are mug, chain"):
        make_shape("bunny", 16)


@pytest.mark.parametrize("resolution", [7, 16.0, True])
def test_a_resolution_that_is_refused(resolution):
    with pytest.raises(OptionError, match="8 or more"):
        make_shape("mug", resolution)
