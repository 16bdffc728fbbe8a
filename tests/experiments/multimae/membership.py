"""Solids by the points that they contain, in NumPy and float64.

Independent of the ray caster: no intersection is solved. A ray is walked in small steps
instead.
"""

import numpy as np


def to_local(solids, index, points):
    """Points `[points, 3]` in a solid's own axes, `[3, points]`."""
    cos, sin = np.asarray(solids.turn[index], float)
    x, y, z = (points - np.asarray(solids.center[index], float)).T
    return np.stack([cos * x - sin * z, y, sin * x + cos * z])


def is_in_box(solids, index, points, grow=0.0):
    half = np.asarray(solids.half[index], float)[:, None] + grow
    return np.all(np.abs(to_local(solids, index, points)) <= half, axis=0)


def is_in_legs(solids, index, points, grow=0.0):
    x, y, z = np.abs(to_local(solids, index, points))
    half, leg = np.asarray(solids.half[index], float), float(solids.profile[index][0])
    return (
        (half[0] - leg - grow <= x)
        & (x <= half[0] + grow)
        & (y <= half[1] + grow)
        & (half[2] - leg - grow <= z)
        & (z <= half[2] + grow)
    )


def is_in_round(solids, index, points, grow=0.0):
    half = np.asarray(solids.half[index], float)[:, None] + grow
    x, y, z = to_local(solids, index, points) / half
    a, b, c = np.asarray(solids.profile[index], float)
    return (np.abs(y) <= 1) & (x**2 + z**2 + a * y**2 + b * y + c <= 0)


def families(scene):
    """`(solids, membership, number of its first surface)` of each kind of solid."""
    boxes, legs = len(scene.boxes.center), len(scene.legs.center)
    return [
        (scene.boxes, is_in_box, 0),
        (scene.legs, is_in_legs, boxes),
        (scene.rounds, is_in_round, boxes + legs),
    ]


def is_in_surface(scene, surface, points, grow=0.0):
    """Whether points are in the solid of this surface."""
    solids, is_in, first = max(
        (family for family in families(scene) if family[2] <= surface),
        key=lambda family: family[2],
    )
    return is_in(solids, surface - first, points, grow)


def is_in_any(scene, points, grow=0.0):
    """Whether points `[..., 3]` are in any solid."""
    shape, points = points.shape[:-1], points.reshape(-1, 3)
    inside = np.zeros(len(points), bool)
    for solids, is_in, _ in families(scene):
        for index in range(len(solids.center)):
            if solids.center[index][1] > -50:  # it is there
                inside |= is_in(solids, index, points, grow)
    return inside.reshape(shape)
