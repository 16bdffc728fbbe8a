"""Shapes in 3-D, by formula: signed distances on a grid.

A shape's value is negative inside and positive outside. Distances to single bodies are
exact. A union, difference or repetition keeps the sign exact, and bounds the distance.

Reference:
  Inigo Quilez, "Distance functions" and "Smooth minimum", for the formulas.
"""

import functools
import itertools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from experiments.inr.signals import Signal, grid, sampled
from experiments.study.options import OptionError

TRUNCATION = 0.5
"""Distances are cut off here and divided by it, so that values are in [-1, 1]."""
MIN_RESOLUTION = 8
RADIUS = 0.95
"""Every shape is inside this ball, so that it can be rotated within the cube."""

Points: TypeAlias = Float[np.ndarray, "points 3"]
Distances: TypeAlias = Float[np.ndarray, "points"]

_SLAB = 1 << 18  # points at once, to bound the memory


def sphere(
    points: Points, center: tuple[float, float, float], radius: float
) -> Distances:
    """Signed distances to a ball."""
    return np.linalg.norm(points - np.array(center), axis=-1) - radius


def box(
    points: Points,
    center: tuple[float, float, float],
    half: tuple[float, float, float],
    rounding: float = 0.0,
) -> Distances:
    """Signed distances to a box of these half sides, rounded edges included."""
    excess = np.abs(points - np.array(center)) - (np.array(half) - rounding)
    outside = np.linalg.norm(np.maximum(excess, 0), axis=-1)
    return outside + np.minimum(excess.max(axis=-1), 0) - rounding


def torus(
    points: Points, center: tuple[float, float, float], major: float, minor: float
) -> Distances:
    """Signed distances to a ring around the third axis."""
    x, y, z = (points - np.array(center)).T
    return np.hypot(np.hypot(x, y) - major, z) - minor


def capsule(
    points: Points, start: np.ndarray, end: np.ndarray, radius: float
) -> Distances:
    """Signed distances to a thick line with round ends."""
    start, end = np.array(start, np.float64), np.array(end, np.float64)
    offset, axis = points - start, end - start
    along = np.clip(offset @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(offset - along[:, None] * axis, axis=-1) - radius


def cylinder(
    points: Points, center: tuple[float, float, float], radius: float, half: float
) -> Distances:
    """Signed distances to a cylinder along the third axis, `2 * half` high."""
    x, y, z = (points - np.array(center)).T
    across, up = np.hypot(x, y) - radius, np.abs(z) - half
    outside = np.hypot(np.maximum(across, 0), np.maximum(up, 0))
    return outside + np.minimum(np.maximum(across, up), 0)


def smooth_union(first: Distances, second: Distances, width: float) -> Distances:
    """The union, blended where the distances differ by less than `width`."""
    share = np.clip(0.5 + 0.5 * (second - first) / width, 0, 1)
    return second + (first - second) * share - width * share * (1 - share)


def smooth_difference(first: Distances, second: Distances, width: float) -> Distances:
    """The first without the second, blended as in `smooth_union`."""
    return -smooth_union(-first, second, width)


def _mug(points: Points) -> Distances:
    body = cylinder(points, (-0.15, 0, 0), 0.45, 0.55) - 0.03
    hollow = cylinder(points, (-0.15, 0, 0.2), 0.37, 0.65)
    # a ring around the second axis
    handle = torus(points[:, [0, 2, 1]], (0.32, 0, 0), 0.27, 0.07)
    return smooth_difference(smooth_union(body, handle, 0.06), hollow, 0.03)


def _chain(points: Points) -> Distances:
    flat = torus(points, (-0.28, 0, 0), 0.42, 0.12)
    upright = torus(points[:, [0, 2, 1]], (0.28, 0, 0), 0.42, 0.12)
    return np.minimum(flat, upright)


def _die(points: Points) -> Distances:
    body = box(points, (0, 0, 0), (0.5, 0.5, 0.5), rounding=0.1)
    step, face = 0.24, 0.52
    pips = [
        (0, 0, face),
        *[(a * step, b * step, -face) for a in (-1, 1) for b in (-1, 0, 1)],
        *[(face, side * step, side * step) for side in (-1, 0, 1)],
        *[(-face, a * step, b * step) for a in (-1, 1) for b in (-1, 1)],
        (0, face, 0),
        *[(a * step, face, b * step) for a in (-1, 1) for b in (-1, 1)],
        *[(side * step, -face, side * step) for side in (-1, 1)],
    ]
    for pip in pips:
        body = smooth_difference(body, sphere(points, pip, 0.1), 0.02)
    return body


def _jack(points: Points) -> Distances:
    arms = np.full(len(points), np.inf)
    for axis in np.eye(3):
        arm = capsule(points, -0.75 * axis, 0.75 * axis, 0.09)
        for end in (-0.75, 0.75):
            arm = smooth_union(arm, sphere(points, tuple(end * axis), 0.17), 0.08)
        arms = arm if np.isinf(arms[0]) else smooth_union(arms, arm, 0.15)
    return arms


def _knot(points: Points) -> Distances:
    turns = np.linspace(0, 2 * np.pi, 49)
    radius = 0.5 + 0.22 * np.cos(3 * turns)
    path = np.stack(
        [
            radius * np.cos(2 * turns),
            radius * np.sin(2 * turns),
            0.22 * np.sin(3 * turns),
        ],
        axis=-1,
    )
    segments = (capsule(points, *ends, 0.1) for ends in itertools.pairwise(path))
    return functools.reduce(np.minimum, segments)


def _gear(points: Points) -> Distances:
    disc = cylinder(points, (0, 0, 0), 0.6, 0.16)
    # twelve teeth: one tooth, in the sector that the point is in
    sector = 2 * np.pi / 12
    angle = np.arctan2(points[:, 1], points[:, 0])
    angle -= sector * np.round(angle / sector)
    distance = np.hypot(points[:, 0], points[:, 1])
    turned = np.stack(
        [distance * np.cos(angle), distance * np.sin(angle), points[:, 2]], axis=-1
    )
    tooth = box(turned, (0.68, 0, 0), (0.14, 0.08, 0.16), rounding=0.03)
    gear = smooth_union(disc, tooth, 0.03)
    holes = sphere(turned * [1, 1, 0], (0.42, 0, 0), 0.08)  # all along the axle
    axle = cylinder(points, (0, 0, 0), 0.2, 1)
    return smooth_difference(np.maximum(gear, -holes), axle, 0.04)


def _snowman(points: Points) -> Distances:
    body = sphere(points, (0, 0, -0.45), 0.42)
    body = smooth_union(body, sphere(points, (0, 0, 0.1), 0.3), 0.08)
    body = smooth_union(body, sphere(points, (0, 0, 0.5), 0.2), 0.06)
    nose = capsule(points, np.array([0.15, 0, 0.5]), np.array([0.4, 0, 0.46]), 0.035)
    hat = cylinder(points, (0, 0, 0.72), 0.16, 0.14)
    brim = cylinder(points, (0, 0, 0.62), 0.28, 0.02)
    return np.minimum(smooth_union(body, nose, 0.03), np.minimum(hat, brim))


def _cheese(points: Points) -> Distances:
    body = sphere(points, (0, 0, 0), 0.75)
    rng = np.random.default_rng(0)
    for _ in range(14):
        direction = rng.normal(size=3)
        hole = 0.7 * direction / np.linalg.norm(direction)
        radius = rng.uniform(0.12, 0.28)
        body = smooth_difference(body, sphere(points, tuple(hole), radius), 0.03)
    return body


def _table(points: Points) -> Distances:
    table = box(points, (0, 0, 0.4), (0.65, 0.45, 0.06), rounding=0.03)
    for x in (-0.5, 0.5):
        for y in (-0.32, 0.32):
            top, foot = np.array([x, y, 0.4]), np.array([1.1 * x, 1.1 * y, -0.55])
            table = smooth_union(table, capsule(points, top, foot, 0.06), 0.06)
    return table


REPORTED: dict[str, Callable[[Points], Distances]] = {
    "mug": _mug,
    "chain": _chain,
    "die": _die,
    "jack": _jack,
    "knot": _knot,
    "gear": _gear,
}
"""Shapes that results are reported on, by name."""

TUNING: dict[str, Callable[[Points], Distances]] = {
    "snowman": _snowman,
    "cheese": _cheese,
    "table": _table,
}
"""Other shapes, for finding learning rates."""


def make_shape(
    name: str, resolution: int, *, rotation_seed: int | None = None
) -> Signal:
    """The signed distances of a shape on a grid.

    The values are `clip(distance / TRUNCATION, -1, 1)`: negative inside, 0 on the
    surface, constant far away. The cube's side is 2.

    Args:
      name: a key of `REPORTED` or `TUNING`.
      resolution: points along each axis, `MIN_RESOLUTION` or more.
      rotation_seed: of a random rotation about the centre. None: upright along the
        third axis.

    Returns:
      A signal of shape `(resolution, resolution, resolution)` and one channel.

    Raises:
      OptionError: there is no such shape, or the resolution is too low.

    Example:
      >>> signal = make_shape("die", 9)
      >>> signal.shape, bool(signal.on_grid(signal.values)[4, 4, 4, 0] < 0)
      ((9, 9, 9), True)
    """
    shapes = REPORTED | TUNING
    if name not in shapes:
        raise OptionError(f"no shape is named {name!r}. There are {', '.join(shapes)}.")
    is_integer = isinstance(resolution, int) and not isinstance(resolution, bool)
    if not is_integer or resolution < MIN_RESOLUTION:
        raise OptionError(
            f"a shape's resolution is {resolution!r}. Give points along each axis, "
            f"{MIN_RESOLUTION} or more."
        )
    coordinates = grid((resolution,) * 3)
    rotation = np.eye(3) if rotation_seed is None else _rotation(rotation_seed)
    slabs = np.array_split(coordinates, -(-len(coordinates) // _SLAB))
    distances = [shapes[name](slab.astype(np.float64) @ rotation) for slab in slabs]
    values = np.clip(np.concatenate(distances) / TRUNCATION, -1, 1)
    fingerprint = {
        "shape": name,
        "resolution": resolution,
        "rotation_seed": rotation_seed,
        "numpy": np.__version__,
    }
    return sampled(values.reshape(*(resolution,) * 3, 1), name, fingerprint)


def _rotation(seed: int) -> Float[np.ndarray, "3 3"]:
    """Uniform over all rotations."""
    drawn = np.random.default_rng(seed).normal(size=(3, 3))
    orthogonal, triangular = np.linalg.qr(drawn)
    rotation = orthogonal * np.sign(np.diag(triangular))
    return rotation * [1, 1, np.linalg.det(rotation)]
