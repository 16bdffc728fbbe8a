"""Draw a room's surfaces: the parts of its items, flat regions, colours, textures."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.multimae.rooms import placement
from experiments.multimae.rooms.draws import Draws
from experiments.multimae.rooms.furniture import (
    CLASSES,
    FLAT_REGIONS,
    ITEMS,
    LAYOUTS,
    SHAPES,
    TEXTURES,
    TINTS,
    Part,
)
from experiments.multimae.rooms.placement import Items
from experiments.multimae.rooms.scene import (
    NUM_BOXES,
    NUM_LEGS,
    NUM_ROUNDS,
    Materials,
    Regions,
    Solids,
)


def _colors(draw: Draws, num_colors: int) -> Float[Array, "colors 3"]:
    """Linear RGB of paint, fabric and wood, alike for everything in all rooms."""
    u = draw.uniform(num_colors, 4)
    is_wood = u[:, 3] < 0.4
    hue = jnp.where(is_wood, 0.06 + 0.05 * u[:, 0], u[:, 0])
    saturation = jnp.where(is_wood, 0.35 + 0.3 * u[:, 1], 0.7 * u[:, 1])
    value = jnp.where(is_wood, 0.3 + 0.5 * u[:, 2], 0.25 + 0.7 * u[:, 2])
    return _linear_rgb(hue, saturation, value)


def _linear_rgb(hue, saturation, value) -> Float[Array, "colors 3"]:
    wheel = jnp.stack([hue, hue + 2 / 3, hue + 1 / 3], axis=-1)
    ramp = jnp.clip(jnp.abs(6 * (wheel % 1.0) - 3) - 1, 0.0, 1.0)
    rgb = value[..., None] * (1 - saturation[..., None] * (1 - ramp))
    return rgb**2.2


def _constant_color(*rgb: float) -> Float[np.ndarray, "3"]:
    return np.asarray(rgb, np.float32) ** np.float32(2.2)


_OWN_TEXTURES = ("plain", "plain", "stripes", "planks", "noise", "dots", "tiles")


def make_solids(
    draw: Draws, items: Items
) -> tuple[tuple[Solids, ...], tuple[Materials, ...]]:
    """The items' parts as boxes, legs and round parts, each with its material."""
    num_items, num_parts = len(items.kind), _PARTS.shape.shape[1]
    parts = jax.tree.map(lambda table: jnp.asarray(table)[items.kind], _PARTS)
    tints = _tints(draw, num_items)
    own = draw.choice(_texture_ids(_OWN_TEXTURES), num_items, 1)
    cell = draw.uniform(num_items, 1, low=0.06)
    low, high = (corner * items.size[:, None] for corner in (parts.low, parts.high))
    middle, half = (low + high) / 2, (high - low) / 2
    cos, sin = (f(items.angle)[:, None] for f in (jnp.cos, jnp.sin))
    offset = jnp.stack(
        [
            cos * middle[..., 0] + sin * middle[..., 2],
            middle[..., 1],
            cos * middle[..., 2] - sin * middle[..., 0],
        ],
        axis=-1,
    )
    rows = jnp.arange(num_items)[:, None]
    first = tints[rows, parts.tint]
    shelf = jnp.where(parts.texture == TEXTURES.index("books"), 0.36, 0.0)
    panels = jnp.where(parts.texture == TEXTURES.index("panels"), 0.5, 0.0)
    columns = {
        "center": items.position[:, None] + offset,
        "half": half,
        "turn": jnp.broadcast_to(
            jnp.stack([cos, sin], axis=-1), (num_items, num_parts, 2)
        ),
        "profile": parts.profile,
        "first": first,
        "second": 0.25 * first + 0.75 * tints[:, 1:2],
        "texture": jnp.where(parts.texture < 0, own, parts.texture),
        "cell": jnp.where(shelf + panels > 0, shelf + panels, 0.4 * cell),
        "glow": jnp.where(parts.tint == TINTS.index("glow"), 0.8, 0.0),
        "semantics": jnp.broadcast_to(
            jnp.asarray(placement.SEMANTICS)[items.kind][:, None],
            (num_items, num_parts),
        ),
    }
    flat = {
        name: jnp.reshape(column, (num_items * num_parts, *column.shape[2:]))
        for name, column in columns.items()
    }
    is_present = items.is_present[:, None]
    solids, materials = [], []
    for number, capacity in enumerate((NUM_BOXES, NUM_LEGS, NUM_ROUNDS)):
        is_used = jnp.ravel((parts.shape == number) & is_present)
        order = jnp.argsort(~is_used, stable=True)[:capacity]
        picked = {name: column[order] for name, column in flat.items()}
        # What is not there lies far below the floor, where no ray arrives.
        below = jnp.array([0.0, -100.0, 0.0])
        picked["center"] = jnp.where(
            is_used[order][:, None], picked["center"], below[None]
        )
        picked["half"] = jnp.where(is_used[order][:, None], picked["half"], 0.1)
        solids.append(Solids(*(picked[name] for name in Solids._fields)))
        materials.append(Materials(*(picked[name] for name in Materials._fields)))
    return tuple(solids), tuple(materials)


class _Parts(NamedTuple):
    """The parts of every item, `[items, parts, ...]`."""

    shape: np.ndarray
    low: np.ndarray
    high: np.ndarray
    tint: np.ndarray
    texture: np.ndarray
    profile: np.ndarray


def _texture_ids(names: Sequence[str]) -> np.ndarray:
    return np.array([TEXTURES.index(name) for name in names], np.int32)


def _profile(part: Part) -> tuple[float, float, float]:
    if part.shape == "legs":
        return (part.leg, 0.0, 0.0)
    if part.is_ellipsoid:
        return (1.0, 0.0, -1.0)
    # The radius is m + n y for y from -1 to 1, at most 1 at its wider end.
    wide = max(part.taper, 1.0)
    m, n = (part.taper + 1) / 2 / wide, (part.taper - 1) / 2 / wide
    return (-n * n, -2 * m * n, -m * m)


def _part_tables() -> _Parts:
    num_parts = max(len(item.parts) for item in ITEMS.values())
    shape = (len(ITEMS), num_parts)
    tables = _Parts(
        np.full(shape, -1, np.int32),
        np.zeros((*shape, 3), np.float32),
        np.zeros((*shape, 3), np.float32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros((*shape, 3), np.float32),
    )
    for i, item in enumerate(ITEMS.values()):
        for j, part in enumerate(item.parts):
            row = (
                SHAPES.index(part.shape),
                (part.x[0], part.y[0], part.z[0]),
                (part.x[1], part.y[1], part.z[1]),
                TINTS.index(part.tint),
                -1 if part.texture == "own" else TEXTURES.index(part.texture),
                _profile(part),
            )
            for table, value in zip(tables, row, strict=True):
                table[i, j] = value
    return tables


_PARTS = _part_tables()


def _tints(draw: Draws, num_items: int) -> Float[Array, "items tints 3"]:
    """Each item's colours, in the order of `furniture.TINTS`."""
    drawn = jnp.reshape(_colors(draw, 2 * num_items), (num_items, 2, 3))
    u = draw.uniform(num_items, 3)
    hue, saturation, value = u[:, 0], u[:, 1], u[:, 2]
    others = [
        _linear_rgb(hue, 0.12 * saturation, 0.8 + 0.18 * value),
        _linear_rgb(hue, 0.2 * saturation, 0.06 + 0.16 * value),
        _linear_rgb(0.24 + 0.14 * hue, 0.4 + 0.35 * saturation, 0.3 + 0.35 * value),
        _linear_rgb(0.09 + 0.06 * hue, 0.3 * saturation, 0.9 + 0.1 * value),
    ]
    return jnp.concatenate([drawn, jnp.stack(others, axis=1)], axis=1)


_REGION_CHANCE = np.array(
    [
        [layout.flat.get(name, 0.5) for name in FLAT_REGIONS]
        for layout in LAYOUTS.values()
    ],
    np.float32,
)
_REGION_PLANE = np.array([r.plane for r in FLAT_REGIONS.values()], np.int32)
_REGION_AT = np.array([r.at for r in FLAT_REGIONS.values()], np.float32)
_REGION_SIZE = np.array([r.size for r in FLAT_REGIONS.values()], np.float32)
_REGION_TEXTURE = np.array(
    [
        -1 if r.texture == "own" else TEXTURES.index(r.texture)
        for r in FLAT_REGIONS.values()
    ],
    np.int32,
)
_REGION_SEMANTICS = np.array(
    [CLASSES.index(r.semantics) for r in FLAT_REGIONS.values()], np.int32
)
_REGION_GLOW = np.array(
    [
        {"window": 0.75, "lamp": 1.2, "screen": 0.3}.get(r.semantics, 0.0)
        for r in FLAT_REGIONS.values()
    ],
    np.float32,
)
_STANDS_ON_FLOOR = np.array([r.semantics == "door" for r in FLAT_REGIONS.values()])
_IN_CLUTTERED_ROOMS = np.array(
    [r.semantics in ("picture", "rug") for r in FLAT_REGIONS.values()]
)


def sample_regions(
    draw: Draws,
    label: jax.Array,
    clutter: jax.Array,
    room: jax.Array,
    mirror: jax.Array,
) -> tuple[Regions, Materials]:
    """Windows, doors, pictures, rugs; mirrored with the furniture."""
    n = len(FLAT_REGIONS)
    u = draw.uniform(n)
    factor = jnp.where(
        jnp.asarray(_IN_CLUTTERED_ROOMS),
        jnp.minimum(clutter.astype(jnp.float32) / 2, 1.0),
        1.0,
    )
    chance = jnp.asarray(_REGION_CHANCE)[label]
    is_there = u < jnp.where(chance < 1, chance * factor, 1.0)
    jitter = draw.signed(n, 4)
    plane = jnp.asarray(_REGION_PLANE)
    is_side, is_level = plane < 2, (plane == 2) | (plane == 3)
    plane = jnp.where(is_side & (mirror < 0), 1 - plane, plane)
    along = jnp.where(is_side, room[2], room[0])
    half = _REGION_SIZE / 2 * (1 + 0.15 * jitter[:, :2])
    limit = jnp.stack([along, jnp.broadcast_to(room[2], (n,))], axis=1) - 0.08
    half = jnp.minimum(half, limit)
    at = _REGION_AT[:, 0] + 0.12 * jitter[:, 2]
    at = jnp.where(is_side, at, mirror * at) * along
    at = jnp.clip(at, half[:, 0] - along, along - half[:, 0])
    high = _REGION_AT[:, 1] + 0.1 * jitter[:, 3]
    up = jnp.where(is_level, high * room[2] / 2, high)
    up = jnp.where(jnp.asarray(_STANDS_ON_FLOOR), half[:, 1], up)
    is_ellipse = draw.bernoulli(0.3, n)
    regions = Regions(
        plane,
        jnp.stack([at, up], axis=1),
        jnp.where(is_there[:, None], half, -1.0),
        is_ellipse & jnp.asarray(CLASSES.index("rug") == _REGION_SEMANTICS),
    )
    first = _colors(draw, n)
    sky = _linear_rgb(
        jnp.full((n,), 0.56), 0.1 + 0.3 * (jitter[:, 0] + 1) / 2, jnp.ones((n,))
    )
    is_window = jnp.asarray(CLASSES.index("window") == _REGION_SEMANTICS)[:, None]
    is_lamp = jnp.asarray(CLASSES.index("lamp") == _REGION_SEMANTICS)[:, None]
    white = jnp.asarray(_constant_color(0.97, 0.96, 0.92))[None]
    first = jnp.where(is_window, sky, jnp.where(is_lamp, white, first))
    own = draw.choice(_texture_ids(("stripes", "tiles", "dots", "noise")), n)
    materials = Materials(
        first,
        _colors(draw, n),
        jnp.where(_REGION_TEXTURE < 0, own, _REGION_TEXTURE),
        draw.uniform(n, low=0.15, high=0.4),
        jnp.asarray(_REGION_GLOW),
        jnp.asarray(_REGION_SEMANTICS),
    )
    return regions, materials


_WALL_TEXTURES = ("plain", "plain", "plain", "stripes", "bricks", "noise", "panels")
_FLOOR_TEXTURES = ("planks", "planks", "tiles", "noise", "plain")


def plane_materials(draw: Draws) -> Materials:
    """Left and right wall, floor and ceiling, front and back wall."""
    u = draw.uniform(4)
    wall = _linear_rgb(u[0], 0.35 * u[1] ** 2, 0.6 + 0.35 * u[2])
    floor, other = _colors(draw, 2)
    white = jnp.asarray(_constant_color(0.93, 0.93, 0.91))
    ceiling = 0.8 * white + 0.2 * wall
    is_floor = np.array([False, False, True, False, False, False])
    wall_texture = draw.choice(_texture_ids(_WALL_TEXTURES))
    floor_texture = draw.choice(_texture_ids(_FLOOR_TEXTURES))
    plain = jnp.zeros((), jnp.int32)
    texture = [wall_texture, wall_texture, floor_texture, plain]
    cell = draw.uniform(2, low=0.15, high=0.5)
    return Materials(
        jnp.stack([wall, wall, floor, ceiling, wall, wall]),
        jnp.stack(
            [0.75 * wall] * 2 + [0.6 * floor + 0.2 * other, ceiling] + [0.75 * wall] * 2
        ),
        jnp.stack([*texture, wall_texture, wall_texture]),
        jnp.where(is_floor, cell[1], cell[0]),
        jnp.zeros((6,)),
        jnp.array(
            [CLASSES.index(name) for name in ("wall", "wall", "floor", "ceiling")]
            + [CLASSES.index("wall")] * 2
        ),
    )
