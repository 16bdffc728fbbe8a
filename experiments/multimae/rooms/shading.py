"""How surfaces look: textures, a point light with shadows, ambient light."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.multimae.rooms.furniture import TEXTURES
from experiments.multimae.rooms.ray_casting import (
    Vector,
    along,
    first_distance,
    implicit,
    in_plane,
    to_local,
    turn_to_world,
)
from experiments.multimae.rooms.scene import (
    NUM_BOXES,
    NUM_LEGS,
    NUM_SOLIDS,
    Scene,
    Solids,
)


def _dot(a: Vector, b: Vector) -> Float[Array, ""]:
    return a.x * b.x + a.y * b.y + a.z * b.z


def _unit(a: Vector) -> Vector:
    scale = jax.lax.rsqrt(jnp.maximum(_dot(a, a), 1e-12))
    return Vector(a.x * scale, a.y * scale, a.z * scale)


def _select(condition, a: Vector, b: Vector) -> Vector:
    return Vector(*(jnp.where(condition, *pair) for pair in zip(a, b, strict=True)))


def _sign(a):
    return jnp.where(a < 0, -1.0, 1.0)


def _normal_of_box(local: Vector, half: Vector) -> Vector:
    """The outward normal of the face that a point on a box lies on."""
    x, y, z = (jnp.abs(p) / h for p, h in zip(local, half, strict=True))
    is_x = (x >= y) & (x >= z)
    is_y = ~is_x & (y >= z)
    is_z = ~(is_x | is_y)
    return Vector(
        *(
            jnp.where(on_axis, _sign(p), 0.0)
            for on_axis, p in zip((is_x, is_y, is_z), local, strict=True)
        )
    )


def _on_solid(
    solid: Solids, surface: Int[Array, ""], point: Vector
) -> tuple[Vector, Float[Array, ""], Float[Array, ""]]:
    """A solid's normal at a point, and the point's coordinates in its texture."""
    local, half = to_local(solid, point), Vector(*solid.half)
    leg = solid.profile[0] / 2
    post = Vector(
        local.x - _sign(local.x) * (half.x - leg),
        local.y,
        local.z - _sign(local.z) * (half.z - leg),
    )
    is_legs = (surface >= NUM_BOXES) & (surface < NUM_BOXES + NUM_LEGS)
    is_round = surface >= NUM_BOXES + NUM_LEGS
    normal = _normal_of_box(
        _select(is_legs, post, local),
        _select(is_legs, Vector(leg, half.y, leg), half),
    )
    unit = Vector(*(p / h for p, h in zip(local, half, strict=True)))
    a, b, _ = solid.profile
    gradient = Vector(
        2 * unit.x / half.x, (2 * a * unit.y + b) / half.y, 2 * unit.z / half.z
    )
    is_cap = (jnp.abs(unit.y) > 0.9999) & (implicit(solid, unit) < -1e-3)
    zero = jnp.zeros(())
    smooth = _select(is_cap, Vector(zero, _sign(unit.y), zero), _unit(gradient))
    normal = _select(is_round, smooth, normal)
    # Around a round part by its angle; on faces by their horizontal direction.
    is_level = jnp.abs(normal.y) > 0.9
    angle = jnp.arctan2(local.z, local.x) * half.x
    around = jnp.where(is_round, angle, local.x + local.z)
    u = jnp.where(is_level, local.x, around) + half.x
    v = jnp.where(is_level, local.z + half.z, local.y + half.y)
    return turn_to_world(solid, normal), u, v


_INWARD = (
    (1.0, 0.0, 0.0),
    (-1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, -1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.0, 0.0, -1.0),
)


def shade(
    scene: Scene,
    direction: Vector,
    t: Float[Array, ""],
    surface: Int[Array, ""],
    pixel: Float[Array, ""],
) -> tuple[Array, Array, Array]:
    """The colour of a surface as the camera sees it, from 0 to 1 each, for a display.

    Args:
      scene: the room.
      direction: of the ray from the camera.
      t: the distance to the surface, in units of direction.
      surface: its number.
      pixel: the size of a pixel at distance 1; finer textures are blurred.
    """
    point = along(Vector(*scene.camera.position), direction, t)
    families = (scene.boxes, scene.legs, scene.rounds)
    solids = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *families)
    own = jnp.minimum(surface, NUM_SOLIDS - 1)
    normal, u, v = _on_solid(jax.tree.map(lambda leaf: leaf[own], solids), own, point)

    regions = scene.regions
    num_regions = regions.plane.shape[0]
    region = jnp.clip(surface - NUM_SOLIDS, 0, num_regions - 1)
    is_region = surface < NUM_SOLIDS + num_regions
    plane = jnp.where(
        is_region, regions.plane[region], surface - NUM_SOLIDS - num_regions
    )
    plane = jnp.clip(plane, 0, 5)
    is_flat = surface >= NUM_SOLIDS
    normal = _select(is_flat, Vector(*jnp.asarray(_INWARD)[plane]), normal)
    flat_u, flat_v = in_plane(point, plane)
    corner = jnp.where(is_region, regions.center[region] - regions.half[region], 0.0)
    u = jnp.where(is_flat, flat_u - corner[0], u)
    v = jnp.where(is_flat, flat_v - corner[1], v)
    size = jnp.where(is_flat & is_region, 2 * regions.half[region], 1.0)

    material = jax.tree.map(lambda leaf: leaf[surface], scene.materials)
    slant = jnp.abs(_dot(_unit(direction), normal))
    blur = pixel * t / jnp.maximum(slant, 0.1)
    mixed = _texture(material.texture, u, v, material.cell, size, blur)
    color = [a + mixed * (b - a) for a, b in zip(*material[:2], strict=True)]

    light = Vector(*scene.light.position)
    to_light = Vector(*(a - b for a, b in zip(light, point, strict=True)))
    distance = _dot(to_light, to_light)
    cosine = jnp.maximum(_dot(_unit(to_light), normal), 0.0)
    # From the light to just before the surface: all these rays share their start.
    back = Vector(-to_light.x, -to_light.y, -to_light.z)
    is_lit = (first_distance(scene, light, back) > 1 - 2e-3) & (cosine > 0)
    direct = jnp.where(is_lit, cosine / (0.4 + 0.18 * distance), 0.0)
    ambient = _openness(scene, point, is_flat, plane) * (0.75 + 0.25 * normal.y)
    glow = material.glow
    ambience, lamp = scene.light.ambient, scene.light.color

    def displayed(channel: int) -> jax.Array:
        light = glow + ambient * ambience[channel] + direct * lamp[channel]
        return jnp.clip(color[channel] * light, 0.0, 1.0) ** (1 / 2.2)

    return displayed(0), displayed(1), displayed(2)


def _openness(scene: Scene, point: Vector, is_flat, plane) -> Float[Array, ""]:
    """How much ambient light arrives: less where walls, floor and ceiling meet."""
    width, height, length = scene.room
    gaps = (
        (width - jnp.abs(point.x), plane < 2),
        (jnp.minimum(point.y, height - point.y), (plane == 2) | (plane == 3)),
        (length - jnp.abs(point.z), plane > 3),
    )
    open_ = jnp.ones(())
    for gap, is_own in gaps:
        dark = 1 - 0.4 * jnp.exp(-jnp.maximum(gap, 0.0) / 0.25)
        open_ = open_ * jnp.where(is_flat & is_own, 1.0, dark)
    return open_


def _hash(a, b) -> Float[Array, ""]:
    """A number in [0, 1) for a pair of whole numbers."""
    a = a.astype(jnp.int32).astype(jnp.uint32)
    b = b.astype(jnp.int32).astype(jnp.uint32)
    h = a * jnp.uint32(0x9E3779B1) ^ (b * jnp.uint32(0x85EBCA77))
    h = (h ^ (h >> jnp.uint32(15))) * jnp.uint32(0xC2B2AE3D)
    h = h ^ (h >> jnp.uint32(13))
    return (h >> jnp.uint32(8)).astype(jnp.float32) * 2.0**-24


def _noise(u, v) -> Float[Array, ""]:
    """Smooth noise with cells of size 1, in [0, 1]."""
    a, b = jnp.floor(u), jnp.floor(v)
    x, y = u - a, v - b
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    low = _hash(a, b) + x * (_hash(a + 1, b) - _hash(a, b))
    high = _hash(a, b + 1) + x * (_hash(a + 1, b + 1) - _hash(a, b + 1))
    return low + y * (high - low)


def _bricks(u, v, width: float, joint: float):
    """A wall of bricks: whether a point is in a joint, and a number for each brick."""
    row = jnp.floor(v)
    shifted = u / width + 0.5 * (row % 2)
    column = jnp.floor(shifted)
    edge = jnp.minimum(v - row, (shifted - column) * width)
    return _where(edge < joint, 1.0), _hash(column, row)


def _texture(
    texture: Int[Array, ""],
    u: Float[Array, ""],
    v: Float[Array, ""],
    cell: Float[Array, ""],
    size: Float[Array, "2"],
    blur: Float[Array, ""],
) -> Float[Array, ""]:
    """How much of the second colour there is at (u, v), in metres; 0 to 1.

    What is finer than the blur, in metres, fades to its mean.
    """
    x, y = u / cell, v / cell
    across, up = u / size[0], v / size[1]
    coarse = _noise(x, y)
    joint, brick = _bricks(x, y, 2.0, 0.12)
    seam, plank = _bricks(y / 0.4, x / 0.4, 9.0, 0.06)
    seam = jnp.maximum(seam, 0.75 * plank)
    in_cell = Vector(x - jnp.floor(x), y - jnp.floor(y), x)
    dots = (in_cell.x - 0.5) ** 2 + (in_cell.y - 0.5) ** 2
    spine = _hash(jnp.floor(x * 6), jnp.floor(y))
    board = in_cell.y < 0.1
    bars = jnp.minimum(jnp.abs(across - 0.5), jnp.abs(up - 0.5))
    blobs = _noise(3 * across + 7 * cell, 3 * up + 5 * cell)
    patterns = {
        "plain": (jnp.zeros(()), 0.0, 1e9),
        "stripes": (_where(in_cell.x < 0.4, 1.0), 0.4, 0.5),
        "planks": (seam, 0.4, 0.35),
        "tiles": (((jnp.floor(x) + jnp.floor(y)) % 2).astype(jnp.float32), 0.5, 1.0),
        "bricks": (jnp.maximum(joint, 0.35 * brick), 0.35, 0.5),
        "noise": (coarse, 0.5, 1.0),
        "dots": (_where(dots < 0.08, 1.0), 0.25, 0.5),
        "books": (jnp.where(board, 0.0, 0.25 + 0.75 * spine), 0.5, 0.25),
        "window": (
            _where(_frame(across, up) < 0.05, 1.0) + _where(bars < 0.025, 1.0),
            0.2,
            0.15,
        ),
        "panels": (_grooves(x, y), 0.15, 0.3),
        "painting": (
            _where(_frame(across, up) < 0.08, 1.0) + _where(blobs > 0.5, 0.6),
            0.4,
            0.3,
        ),
    }
    assert tuple(patterns) == TEXTURES
    value, mean, finest = (
        jax.lax.select_n(
            texture, *(jnp.asarray(p[i], jnp.float32) for p in patterns.values())
        )
        for i in range(3)
    )
    sharp = jnp.clip(1.6 - 1.6 * blur / (finest * cell), 0.0, 1.0)
    return mean + sharp * (jnp.clip(value, 0.0, 1.0) - mean)


def _where(condition, value: float):
    return jnp.where(condition, value, 0.0)


def _frame(across, up):
    """The distance to the border of a unit square."""
    sides = jnp.minimum(across, 1 - across)
    return jnp.minimum(sides, jnp.minimum(up, 1 - up))


def _grooves(x, y):
    """1 in the grooves between the panels of doors and cabinets."""
    return _where(_frame(x - jnp.floor(x), y - jnp.floor(y)) < 0.05, 0.8)
