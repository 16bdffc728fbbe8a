"""What stands in the rooms: furniture and its parts, and each room type's layout.

All tables are static. `scenes` draws rooms from them.

Axes of an item: x to its right, y up, z to its back, which touches the wall. Sizes are
in metres. Angles are in degrees: at 0 the back is at the room's back wall, at -90 at
the left wall, at 90 at the right wall.
"""

from typing import NamedTuple

CLASSES = (
    "wall",
    "floor",
    "ceiling",
    "window",
    "door",
    "picture",
    "rug",
    "table",
    "chair",
    "sofa",
    "bed",
    "cabinet",
    "lamp",
    "plant",
    "screen",
    "clutter",
)
"""What a pixel's semantics are indices into."""

SHAPES = ("box", "legs", "round")
TINTS = ("first", "second", "pale", "dark", "leaves", "glow")
"""The colours that a room draws for each item, for its parts to choose from."""
TEXTURES = (
    "plain",
    "stripes",
    "planks",
    "tiles",
    "bricks",
    "noise",
    "dots",
    "books",
    "window",
    "panels",
    "painting",
)


class Part(NamedTuple):
    """One primitive of an item; its extent is in units of the item's size."""

    shape: str
    x: tuple[float, float]
    y: tuple[float, float]
    z: tuple[float, float]
    tint: str = "first"
    texture: str = "own"
    """The texture drawn for the item ("own"), or one of `TEXTURES`."""
    taper: float = 1.0
    """Of a round part: the radius at the top over that at the bottom. 1 is a cylinder,
    0 a cone."""
    is_ellipsoid: bool = False
    leg: float = 0.05
    """Of legs: their thickness in metres."""


class Item(NamedTuple):
    """A piece of furniture, or a small thing."""

    semantics: str
    size: tuple[float, float, float]
    """Mean width, height and depth in metres."""
    parts: tuple[Part, ...]
    top: float = 0.0
    """Where things can stand on it, in units of its height; 0: nowhere."""


_ALL = (-0.5, 0.5)


def _box(x, y, z, tint="first", texture="own") -> Part:
    return Part("box", x, y, z, tint, texture)


def _legs(x, y, z, tint="second", leg=0.05) -> Part:
    return Part("legs", x, y, z, tint, "plain", leg=leg)


def _round(radius, y, tint="first", taper=1.0, texture="own", at=(0.0, 0.0)) -> Part:
    x, z = ((center - radius, center + radius) for center in at)
    return Part("round", x, y, z, tint, texture, taper)


def _ellipsoid(x, y, z, tint="first", texture="own") -> Part:
    return Part("round", x, y, z, tint, texture, is_ellipsoid=True)


_TABLE = (
    _box(_ALL, (0.92, 1), _ALL),
    _legs((-0.47, 0.47), (0, 0.92), (-0.46, 0.46), leg=0.06),
)
_SEAT_AND_ARMS = (
    _box((-0.4, 0.4), (0.06, 0.52), (-0.5, 0.3)),
    _box(_ALL, (0.06, 1), (0.28, 0.5)),
    _box((-0.5, -0.39), (0.06, 0.75), (-0.48, 0.3)),
    _box((0.39, 0.5), (0.06, 0.75), (-0.48, 0.3)),
)
_SCREEN = (
    _box(_ALL, (0.14, 1), (-0.2, 0.2), "dark", "plain"),
    _box((-0.2, 0.2), (0, 0.14), _ALL, "dark", "plain"),
)


def _bed(pillows: tuple[tuple[float, float], ...]) -> tuple[Part, ...]:
    return (
        _box(_ALL, (0.1, 0.34), (-0.5, 0.46), "second"),
        _box((-0.48, 0.48), (0.34, 0.56), (-0.49, 0.45)),
        _box(_ALL, (0, 1), (0.46, 0.5), "second"),
        *(_ellipsoid(x, (0.53, 0.74), (0.24, 0.43), "pale", "plain") for x in pillows),
    )


ITEMS = {
    "table": Item("table", (1.5, 0.74, 0.85), _TABLE, top=1),
    "low table": Item("table", (1.0, 0.42, 0.6), _TABLE, top=1),
    "desk": Item(
        "table",
        (1.4, 0.75, 0.7),
        (*_TABLE, _box((0.17, 0.46), (0.3, 0.92), (-0.42, 0.45), "second", "panels")),
        top=1,
    ),
    "round table": Item(
        "table",
        (0.8, 0.74, 0.8),
        (
            _round(0.5, (0.93, 1)),
            _round(0.07, (0.06, 0.93), "second", texture="plain"),
            _round(0.3, (0, 0.06), "second", 0.4, "plain"),
        ),
        top=1,
    ),
    "chair": Item(
        "chair",
        (0.46, 0.9, 0.46),
        (
            _box(_ALL, (0.46, 0.54), _ALL),
            _box(_ALL, (0.58, 1), (0.38, 0.5)),
            _legs((-0.47, 0.47), (0, 0.6), (-0.47, 0.47), leg=0.04),
        ),
        top=0.54,
    ),
    "sofa": Item("sofa", (1.9, 0.8, 0.9), _SEAT_AND_ARMS, top=0.52),
    "armchair": Item("sofa", (0.95, 0.8, 0.85), _SEAT_AND_ARMS, top=0.52),
    "double bed": Item(
        "bed", (1.6, 0.9, 2.05), _bed(((-0.42, -0.05), (0.05, 0.42))), top=0.56
    ),
    "single bed": Item("bed", (0.95, 0.85, 2.0), _bed(((-0.36, 0.36),)), top=0.56),
    "nightstand": Item(
        "cabinet", (0.45, 0.52, 0.4), (_box(_ALL, (0, 1), _ALL, texture="panels"),), 1
    ),
    "cabinet": Item(
        "cabinet", (1.3, 0.8, 0.45), (_box(_ALL, (0, 1), _ALL, texture="panels"),), 1
    ),
    "wardrobe": Item(
        "cabinet", (1.3, 2.0, 0.6), (_box(_ALL, (0, 1), _ALL, texture="panels"),)
    ),
    "shelf": Item(
        "cabinet", (0.95, 1.95, 0.32), (_box(_ALL, (0, 1), _ALL, texture="books"),)
    ),
    "floor lamp": Item(
        "lamp",
        (0.42, 1.6, 0.42),
        (
            _round(0.35, (0, 0.03), "dark", texture="plain"),
            _round(0.05, (0.03, 0.8), "dark", texture="plain"),
            _round(0.5, (0.78, 1), "glow", 0.6, "plain"),
        ),
    ),
    "table lamp": Item(
        "lamp",
        (0.28, 0.46, 0.28),
        (
            _round(0.25, (0, 0.55), taper=0.4),
            _round(0.5, (0.5, 1), "glow", 0.6, "plain"),
        ),
    ),
    "plant": Item(
        "plant",
        (0.6, 1.1, 0.6),
        (
            _round(0.22, (0, 0.3), taper=1.4, texture="plain"),
            _ellipsoid((-0.5, 0.3), (0.26, 0.85), (-0.4, 0.4), "leaves", "noise"),
            _ellipsoid((-0.2, 0.5), (0.4, 1), (-0.35, 0.45), "leaves", "noise"),
        ),
    ),
    "screen": Item("screen", (0.62, 0.45, 0.14), _SCREEN),
    "television": Item("screen", (1.15, 0.72, 0.2), _SCREEN),
    "ball": Item("clutter", (0.26, 0.26, 0.26), (_ellipsoid(_ALL, (0, 1), _ALL),)),
    "carton": Item("clutter", (0.4, 0.32, 0.35), (_box(_ALL, (0, 1), _ALL),)),
    "books": Item("clutter", (0.26, 0.13, 0.2), (_box(_ALL, (0, 1), _ALL),)),
    "vase": Item(
        "clutter",
        (0.2, 0.34, 0.2),
        (_ellipsoid(_ALL, (0, 0.7), _ALL), _round(0.2, (0.6, 1), taper=1.6)),
    ),
    "cone": Item("clutter", (0.24, 0.36, 0.24), (_round(0.5, (0, 1), taper=0.0),)),
    "capsule": Item(
        "clutter",
        (0.16, 0.4, 0.16),
        (
            _round(0.5, (0.2, 0.8)),
            _ellipsoid(_ALL, (0, 0.4), _ALL),
            _ellipsoid(_ALL, (0.6, 1), _ALL),
        ),
    ),
    "bucket": Item("clutter", (0.3, 0.3, 0.3), (_round(0.38, (0, 1), taper=1.3),)),
}
SMALL_THINGS = ("ball", "carton", "books", "vase", "cone", "capsule", "bucket", "plant")


class Place(NamedTuple):
    """Where a layout has an item."""

    item: str
    at: tuple[float, float]
    """x and z. Of the room: -1 and 1 touch the walls. Of a parent: -1 and 1 are its
    edges."""
    turn: float = 0.0
    parent: int = -1
    """The place it belongs to, by position in the layout; -1: the room. It moves and
    turns with its parent."""
    gap: tuple[float, float] = (0.0, 0.0)
    """Metres beyond `at`, along x and z."""
    is_on_top: bool = False
    chance: float = 1.0
    """1: the room type has it. Less: it is there in a cluttered room, by chance."""


class Layout(NamedTuple):
    """A room type."""

    width: tuple[float, float]
    length: tuple[float, float]
    """The room's least and greatest size in metres; length is from front to back."""
    places: tuple[Place, ...]
    flat: dict[str, float]
    """The chance of each of `FLAT_REGIONS`; not listed: 0.5."""


class FlatRegion(NamedTuple):
    """A rectangle or an ellipse on a wall, the floor or the ceiling."""

    plane: int
    """0, 1: left and right wall; 2, 3: floor and ceiling; 4, 5: front and back wall."""
    at: tuple[float, float]
    """Its centre: along the wall from -1 to 1, and metres above the floor. On floor and
    ceiling: x and z from -1 to 1."""
    size: tuple[float, float]
    """Metres, along the wall and up; x and z."""
    semantics: str
    texture: str


FLAT_REGIONS = {
    "back window": FlatRegion(5, (-0.45, 1.6), (1.3, 1.1), "window", "window"),
    "left window": FlatRegion(0, (0.1, 1.6), (1.4, 1.1), "window", "window"),
    "right door": FlatRegion(1, (-0.1, 1.0), (0.85, 2.0), "door", "panels"),
    "left door": FlatRegion(0, (-0.55, 1.0), (0.85, 2.0), "door", "panels"),
    "back picture": FlatRegion(5, (0.5, 1.65), (0.7, 0.55), "picture", "painting"),
    "right picture": FlatRegion(1, (0.55, 1.6), (0.8, 0.55), "picture", "painting"),
    "rug": FlatRegion(2, (0.0, 0.25), (2.2, 1.6), "rug", "own"),
    "ceiling light": FlatRegion(3, (0.0, 0.2), (0.9, 0.45), "lamp", "plain"),
    "back screen": FlatRegion(5, (0.0, 1.65), (1.9, 1.1), "screen", "painting"),
    "back door": FlatRegion(5, (0.0, 1.0), (0.85, 2.0), "door", "panels"),
}


def _around_table(parent: int, chances: tuple[float, ...]) -> tuple[Place, ...]:
    """Six chairs around a rectangular table; their backs point away from it."""
    spots = [
        ((-0.45, -1), 180, (0, -0.14)),
        ((-0.45, 1), 0, (0, 0.14)),
        ((0.45, -1), 180, (0, -0.14)),
        ((0.45, 1), 0, (0, 0.14)),
        ((-1, 0), -90, (-0.16, 0)),
        ((1, 0), 90, (0.16, 0)),
    ]
    return tuple(
        Place("chair", at, turn, parent, gap, chance=chance)
        for (at, turn, gap), chance in zip(spots, chances, strict=True)
    )


def _with_two_chairs(parent: int) -> tuple[Place, ...]:
    """Two chairs on both sides of a small table."""
    return (
        Place("chair", (-1, 0), -90, parent, (-0.18, 0)),
        Place("chair", (1, 0), 90, parent, (0.18, 0)),
    )


LAYOUTS = {
    "living room": Layout(
        (4.0, 5.6),
        (4.2, 5.6),
        (
            Place("sofa", (-0.2, 1)),
            Place("low table", (0, -1), 0, 0, (0, -0.65)),
            Place("cabinet", (1, 0.15), 90),
            Place("television", (0, 0.1), 0, 2, is_on_top=True),
            Place("armchair", (-1, 0.0), -90, chance=0.8),
            Place("floor lamp", (-1, 1), chance=0.8),
            Place("plant", (1, 1), chance=0.8),
        ),
        {"rug": 0.8, "back screen": 0, "back door": 0},
    ),
    "bedroom": Layout(
        (3.4, 4.8),
        (3.8, 5.0),
        (
            Place("double bed", (0.1, 1)),
            Place("nightstand", (1, 0.8), 0, 0, (0.3, 0)),
            Place("table lamp", (0, 0), 0, 1, is_on_top=True),
            Place("nightstand", (-1, 0.8), 0, 0, (-0.3, 0), chance=0.8),
            Place("wardrobe", (-1, 0.1), -90, chance=0.8),
            Place("chair", (1, 0.0), 120, chance=0.5),
            Place("plant", (1, 1), chance=0.4),
        ),
        {"back screen": 0, "back door": 0},
    ),
    "office": Layout(
        (3.0, 4.4),
        (3.4, 4.6),
        (
            Place("desk", (-0.1, 1)),
            Place("chair", (-0.1, -1), 180, 0, (0, -0.2)),
            Place("screen", (-0.1, 0.5), 0, 0, is_on_top=True),
            Place("shelf", (1, 0.5), 90),
            Place("shelf", (1, -0.1), 90, chance=0.7),
            Place("cabinet", (-1, 0.1), -90, chance=0.7),
            Place("table lamp", (-0.75, 0.3), 0, 0, is_on_top=True, chance=0.6),
        ),
        {"rug": 0.3, "back screen": 0, "back door": 0, "ceiling light": 0.6},
    ),
    "dining room": Layout(
        (3.8, 5.2),
        (4.0, 5.4),
        (
            Place("table", (0, 0.35)),
            *_around_table(0, (1, 1, 1, 1, 0.7, 0.7)),
            Place("cabinet", (0.3, 1), chance=0.8),
            Place("plant", (-1, 1), chance=0.7),
            Place("floor lamp", (1, 1), chance=0.5),
        ),
        {"back screen": 0, "back door": 0.3},
    ),
    "library": Layout(
        (3.6, 5.2),
        (3.8, 5.2),
        (
            Place("shelf", (-0.75, 1)),
            Place("shelf", (-0.1, 1)),
            Place("shelf", (0.55, 1)),
            Place("shelf", (1, 0.45), 90),
            Place("shelf", (-1, 0.45), -90),
            Place("shelf", (1, -0.1), 90, chance=0.8),
            Place("shelf", (-1, -0.1), -90, chance=0.8),
            Place("armchair", (0.1, 0.3), 30, chance=0.8),
            Place("floor lamp", (0.45, 0.35), chance=0.6),
        ),
        {"back window": 0.1, "back picture": 0, "back screen": 0, "back door": 0},
    ),
    "dormitory": Layout(
        (3.6, 4.8),
        (3.8, 5.2),
        (
            Place("single bed", (-1, 1)),
            Place("single bed", (1, 1)),
            Place("nightstand", (0, 1)),
            Place("table lamp", (0, 0), 0, 2, is_on_top=True, chance=0.7),
            Place("wardrobe", (-1, -0.25), -90, chance=0.6),
            Place("chair", (1, -0.2), 90, chance=0.6),
        ),
        {"rug": 0.3, "back screen": 0, "back door": 0},
    ),
    "classroom": Layout(
        (4.6, 6.0),
        (5.0, 6.4),
        (
            Place("chair", (-0.5, -0.05), 180),
            Place("chair", (0.0, -0.05), 180),
            Place("chair", (0.5, -0.05), 180),
            Place("chair", (-0.5, 0.33), 180),
            Place("chair", (0.0, 0.33), 180),
            Place("chair", (0.5, 0.33), 180),
            Place("desk", (0.45, 0.85), 180, chance=0.8),
            Place("plant", (-1, 1), chance=0.5),
        ),
        {
            "back screen": 1,
            "back window": 0,
            "back picture": 0,
            "back door": 0,
            "rug": 0,
            "ceiling light": 0.8,
        },
    ),
    "café": Layout(
        (4.4, 6.0),
        (4.6, 6.2),
        (
            Place("round table", (-0.6, 0.65), 15),
            Place("round table", (0.6, 0.6), -20),
            Place("round table", (0.0, 0.05), 10),
            *_with_two_chairs(0),
            *_with_two_chairs(1),
            *_with_two_chairs(2),
            Place("cabinet", (0.1, 1), chance=0.8),
            Place("plant", (1, 1), chance=0.6),
        ),
        {"rug": 0.1, "back screen": 0, "back door": 0.2},
    ),
    "studio": Layout(
        (4.2, 5.4),
        (4.2, 5.4),
        (
            Place("double bed", (-1, 0.9), -90),
            Place("sofa", (1, 0.25), 90),
            Place("low table", (0, -1), 0, 1, (0, -0.5)),
            Place("wardrobe", (0.45, 1), chance=0.7),
            Place("floor lamp", (1, 1), chance=0.7),
            Place("television", (0, 0), 180, 2, is_on_top=True, chance=0.4),
        ),
        {"rug": 0.6, "back screen": 0, "back door": 0},
    ),
    "corridor": Layout(
        (1.8, 2.3),
        (6.0, 8.5),
        (
            Place("nightstand", (-1, 0.2), -90),
            Place("plant", (0.9, 0.95), chance=0.7),
            Place("cabinet", (1, 0.4), 90, chance=0.5),
            Place("chair", (1, -0.1), 90, chance=0.6),
        ),
        {
            "back window": 0,
            "left window": 0,
            "right door": 1,
            "left door": 1,
            "back door": 0.8,
            "back screen": 0,
            "back picture": 0,
            "rug": 0.2,
            "ceiling light": 0.8,
        },
    ),
}
"""The room types, the most common first. The label is a matter of what stands where:
colours are drawn alike for all types."""
