"""The first surface that a ray meets, in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.multimae.rooms.scene import (
    NUM_BOXES,
    NUM_LEGS,
    NUM_ROUNDS,
    NUM_SOLIDS,
    Regions,
    Scene,
    Solids,
)

_NEAR = 1e-3
"""Hits nearer than this are the ray's own start, in units of its direction."""
_TINY = 1e-9


class Vector(NamedTuple):
    """Three numbers of one ray. Its arrays stay apart, so that rays fill the lanes."""

    x: Float[Array, ""]
    y: Float[Array, ""]
    z: Float[Array, ""]


def along(start: Vector, direction: Vector, t: Float[Array, ""]) -> Vector:
    """The point `start + t direction`."""
    return Vector(*(a + t * b for a, b in zip(start, direction, strict=True)))


def to_local(solid: Solids, point: Vector) -> Vector:
    """A point in a solid's own axes, from its centre, in metres."""
    x, y, z = (p - c for p, c in zip(point, solid.center, strict=True))
    return turn_to_local(solid, Vector(x, y, z))


def turn_to_local(solid: Solids, direction: Vector) -> Vector:
    """A direction in a solid's own axes."""
    cos, sin = solid.turn
    x, y, z = direction
    return Vector(cos * x - sin * z, y, sin * x + cos * z)


def turn_to_world(solid: Solids, direction: Vector) -> Vector:
    """A direction of a solid's own axes, in the room's."""
    cos, sin = solid.turn
    x, y, z = direction
    return Vector(cos * x + sin * z, y, cos * z - sin * x)


def _reciprocal(a: Float[Array, ""]) -> Float[Array, ""]:
    return 1 / jnp.where(jnp.abs(a) < _TINY, _TINY, a)


def _slab(start, step, low, high):
    """Where a coordinate enters and leaves [low, high]; `step` is 1 / its speed."""
    a, b = (low - start) * step, (high - start) * step
    return jnp.minimum(a, b), jnp.maximum(a, b)


def _entry(*slabs):
    """Where all slabs are entered; ∞ if the ray is never in all of them at once."""
    enter, leave = slabs[0]
    for low, high in slabs[1:]:
        enter, leave = jnp.maximum(enter, low), jnp.minimum(leave, high)
    return jnp.where((enter < leave) & (enter > _NEAR), enter, jnp.inf)


def hit_box(solid: Solids, start: Vector, direction: Vector) -> Float[Array, ""]:
    """Where a ray enters a box, in units of `direction`; ∞ if it does not.

    All rays start outside of all solids.
    """
    start, direction = to_local(solid, start), turn_to_local(solid, direction)
    slabs = (
        _slab(s, _reciprocal(d), -h, h)
        for s, d, h in zip(start, direction, solid.half, strict=True)
    )
    return _entry(*slabs)


def hit_legs(solid: Solids, start: Vector, direction: Vector) -> Float[Array, ""]:
    """Where a ray enters one of four square posts, at the corners of a box."""
    start, direction = to_local(solid, start), turn_to_local(solid, direction)
    step = Vector(*map(_reciprocal, direction))
    half, leg = Vector(*solid.half), solid.profile[0]
    y = _slab(start.y, step.y, -half.y, half.y)
    sides = [
        [_slab(s, d, -h, leg - h), _slab(s, d, h - leg, h)]
        for s, d, h in (
            (start.x, step.x, half.x),
            (start.z, step.z, half.z),
        )
    ]
    nearest = jnp.full((), jnp.inf)
    for x in sides[0]:
        for z in sides[1]:
            nearest = jnp.minimum(nearest, _entry(x, y, z))
    return nearest


def implicit(solid: Solids, unit: Vector) -> Float[Array, ""]:
    """x² + z² + a y² + b y + c of a point in units of the solid's `half`.

    Negative inside of the round part, between y = -1 and 1.
    """
    a, b, c = solid.profile
    return unit.x * unit.x + unit.z * unit.z + (a * unit.y + b) * unit.y + c


def hit_round(solid: Solids, start: Vector, direction: Vector) -> Float[Array, ""]:
    """Where a ray enters an ellipsoid, cylinder, cone or a cone without its tip."""
    start, direction = to_local(solid, start), turn_to_local(solid, direction)
    inverse = [1 / h for h in solid.half]
    p = Vector(*(s * i for s, i in zip(start, inverse, strict=True)))
    d = Vector(*(s * i for s, i in zip(direction, inverse, strict=True)))
    a, b, _ = solid.profile
    square = d.x * d.x + d.z * d.z + a * d.y * d.y
    middle = p.x * d.x + p.z * d.z + (a * p.y + b / 2) * d.y
    constant = implicit(solid, p)
    discriminant = middle * middle - square * constant
    root = jnp.sqrt(jnp.maximum(discriminant, 0.0))
    # Both roots without cancellation; where square is 0, one of them is at infinity.
    q = -(middle + jnp.where(middle < 0, -root, root))
    nearest = jnp.full((), jnp.inf)
    for t in (q * _reciprocal(square), constant * _reciprocal(q)):
        is_hit = (discriminant > 0) & (jnp.abs(p.y + t * d.y) <= 1) & (t > _NEAR)
        nearest = jnp.where(is_hit, jnp.minimum(nearest, t), nearest)
    step = _reciprocal(d.y)
    for cap in (-1.0, 1.0):
        t = (cap - p.y) * step
        is_hit = (implicit(solid, along(p, d, t)) <= 0) & (t > _NEAR)
        nearest = jnp.where(is_hit, jnp.minimum(nearest, t), nearest)
    return nearest


FAMILIES = (
    (hit_box, NUM_BOXES),
    (hit_legs, NUM_LEGS),
    (hit_round, NUM_ROUNDS),
)


def first_solid(
    scene: Scene, start: Vector, direction: Vector
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The nearest box, legs or round part on a ray.

    Args:
      scene: the room.
      start: where the ray starts.
      direction: of any length, which is the unit of the distance.

    Returns:
      The distance (∞: no solid) and the surface's number.
    """
    nearest, surface = jnp.full((), jnp.inf), jnp.zeros((), jnp.int32)
    number = 0
    for (hit, count), solids in zip(
        FAMILIES, (scene.boxes, scene.legs, scene.rounds), strict=True
    ):

        def step(best, numbered, hit=hit):
            nearest, surface = best
            solid, number = numbered
            t = hit(solid, start, direction)
            is_nearer = t < nearest
            nearest = jnp.where(is_nearer, t, nearest)
            return (nearest, jnp.where(is_nearer, number, surface)), None

        numbers = jnp.arange(number, number + count, dtype=jnp.int32)
        (nearest, surface), _ = jax.lax.scan(
            step, (nearest, surface), (solids, numbers), unroll=2
        )
        number += count
    return nearest, surface


def first_distance(scene: Scene, start: Vector, direction: Vector) -> Float[Array, ""]:
    """The distance to the nearest solid on a ray, as `first_solid` has it."""
    nearest = jnp.full((), jnp.inf)
    for (hit, _), solids in zip(
        FAMILIES, (scene.boxes, scene.legs, scene.rounds), strict=True
    ):

        def step(nearest, solid, hit=hit):
            return jnp.minimum(nearest, hit(solid, start, direction)), None

        nearest, _ = jax.lax.scan(step, nearest, solids, unroll=2)
    return nearest


def plane_of_room(
    scene: Scene, start: Vector, direction: Vector
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Where a ray from inside meets the walls, floor or ceiling, and which of them."""
    width, height, length = scene.room
    bounds = ((-width, width), (jnp.zeros(()), height), (-length, length))
    exits = [
        (jnp.where(d > 0, high, low) - s) * _reciprocal(d)
        for s, d, (low, high) in zip(start, direction, bounds, strict=True)
    ]
    # A ray along a plane does not meet it.
    exits = [
        jnp.where(jnp.abs(d) < _TINY, jnp.inf, t)
        for t, d in zip(exits, direction, strict=True)
    ]
    t = jnp.minimum(jnp.minimum(exits[0], exits[1]), exits[2])
    axis = jnp.where(t == exits[0], 0, jnp.where(t == exits[1], 1, 2))
    is_high = jnp.stack([d > 0 for d in direction])[axis]
    return t, 2 * axis + is_high.astype(jnp.int32)


def in_plane(point: Vector, plane: Int[Array, ""]) -> tuple[Array, Array]:
    """A point's two coordinates in one of the room's planes."""
    u = jnp.where(plane < 2, point.z, point.x)
    v = jnp.where((plane == 2) | (plane == 3), point.z, point.y)
    return u, v


def region_at(regions: Regions, plane: Int[Array, ""], point: Vector) -> Int[Array, ""]:
    """The number of the last flat region that covers a point of a plane, or -1."""
    u, v = in_plane(point, plane)
    found = jnp.full((), -1, jnp.int32)
    for number in range(regions.plane.shape[0]):
        region = jax.tree.map(lambda leaf, n=number: leaf[n], regions)
        x, y = (
            jnp.abs(value - middle) / half
            for value, middle, half in zip(
                (u, v), region.center, region.half, strict=True
            )
        )
        outside = jnp.where(region.is_ellipse, x * x + y * y, jnp.maximum(x, y))
        covers = (outside <= 1) & (region.half[0] > 0) & (plane == region.plane)
        found = jnp.where(covers, np.int32(number), found)
    return found


def first_surface(
    scene: Scene, start: Vector, direction: Vector
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The first surface on a ray from inside the room.

    Args:
      scene: the room.
      start: where the ray starts, outside of all solids.
      direction: of any length, which is the unit of the distance.

    Returns:
      The distance and the surface's number: an index into `scene.materials`.
    """
    nearest, surface = first_solid(scene, start, direction)
    t, plane = plane_of_room(scene, start, direction)
    region = region_at(scene.regions, plane, along(start, direction, t))
    num_regions = scene.regions.plane.shape[0]
    flat = jnp.where(region < 0, num_regions + plane, region) + NUM_SOLIDS
    return jnp.minimum(t, nearest), jnp.where(nearest < t, surface, flat)
