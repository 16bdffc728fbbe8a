"""Where furniture and small things stand in a room."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.multimae.rooms.draws import Draws
from experiments.multimae.rooms.furniture import (
    CLASSES,
    ITEMS,
    LAYOUTS,
    SMALL_THINGS,
    Layout,
    Place,
)

NUM_CLUTTER_LEVELS = 4
NUM_SMALL_THINGS = 10
_MAX_DEPTH = 2
"""A lamp on a nightstand beside a bed."""
_NAMES = tuple(ITEMS)
_SIZE = np.array([item.size for item in ITEMS.values()], np.float32)
_TOP = np.array([item.top for item in ITEMS.values()], np.float32)
SEMANTICS = np.array([CLASSES.index(i.semantics) for i in ITEMS.values()], np.int32)
"""`[items]` each item's class."""
_HEIGHT = (2.4, 3.0)
ROOM_LOW, ROOM_HIGH = (
    np.array(
        [
            [layout.width[i] / 2, _HEIGHT[i], layout.length[i] / 2]
            for layout in LAYOUTS.values()
        ],
        np.float32,
    )
    for i in (0, 1)
)
"""`[labels, 3]` half the width, the height, half the length of a room, at least and at
most."""


class Items(NamedTuple):
    """Furniture and small things; leaves `[items, ...]`."""

    kind: Int[Array, "items"]
    """Which of `furniture.ITEMS`."""
    position: Float[Array, "items 3"]
    """Of the centre of its base, in metres."""
    size: Float[Array, "items 3"]
    angle: Float[Array, "items"]
    """In radians; at 0 its back is at the back wall, at π/2 at the right wall."""
    is_present: Bool[Array, "items"]
    is_required: Bool[Array, "items"]
    """Whether it makes the room type."""
    mirror: Float[Array, "items"]
    """1, or -1 if the room's layout is mirrored; the same for all."""


class _Places(NamedTuple):
    """The layouts' places, `[labels, places, ...]`."""

    kind: np.ndarray
    at: np.ndarray
    turn: np.ndarray
    parent: np.ndarray
    gap: np.ndarray
    is_on_top: np.ndarray
    chance: np.ndarray


def _tables(layouts: list[Layout]) -> _Places:
    width = max(len(layout.places) for layout in layouts)
    missing = Place("table", (0, 0), chance=-1.0)
    rows = [
        [*layout.places, *[missing] * (width - len(layout.places))]
        for layout in layouts
    ]
    columns = [
        [
            [
                _NAMES.index(p.item),
                p.at,
                np.deg2rad(p.turn),
                p.parent,
                p.gap,
                p.is_on_top,
                p.chance,
            ]
            for p in row
        ]
        for row in rows
    ]
    dtypes = (np.int32, np.float32, np.float32, np.int32, np.float32, bool, np.float32)
    return _Places(
        *(
            np.array([[place[i] for place in row] for row in columns], dtype)
            for i, dtype in enumerate(dtypes)
        )
    )


_PLACES = _tables(list(LAYOUTS.values()))
_OPTIONAL = np.array([0.0, 0.5, 0.8, 1.0], np.float32)
"""By clutter level: how likely an optional item is, in units of its chance."""
_LEAST_THINGS = np.array([0, 1, 4, 7], np.float32)
_MOST_THINGS = np.array([0, 3, 6, NUM_SMALL_THINGS], np.float32)


def _rotate(
    angle: Float[Array, "items"], xz: Float[Array, "items 2"]
) -> Float[Array, "items 2"]:
    """Turn offsets with the item: local to world."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, z = xz[:, 0], xz[:, 1]
    return jnp.stack([cos * x + sin * z, cos * z - sin * x], axis=1)


def place_furniture(
    draw: Draws,
    label: Int[Array, ""],
    clutter: Int[Array, ""],
    room: Float[Array, "3"],
    spread: Float[Array, ""],
) -> Items:
    """Place the items of a room type's layout.

    Args:
      draw: random numbers.
      label: the room type.
      clutter: the level; optional items are rarer in emptier rooms.
      room: half the width, the height, half the length.
      spread: how far things are from their usual places and sizes; 0: not at all.
    """
    places: _Places = jax.tree.map(lambda table: jnp.asarray(table)[label], _PLACES)
    num_places = len(places.kind)
    chance = places.chance * jnp.asarray(_OPTIONAL)[clutter]
    chance = jnp.where(places.chance == 1, 1.0, chance)
    is_present = draw.uniform(num_places) < chance
    mirror = jnp.where(draw.bernoulli(0.5), 1.0, -1.0)
    u = draw.signed(num_places, 6)
    size = jnp.asarray(_SIZE)[places.kind]
    size = size * jnp.clip(1 + 0.1 * spread * u[:, :3], 0.75, 1.25)
    tallest = jnp.stack([jnp.inf, room[1] - 0.4, jnp.inf])
    size = jnp.minimum(size, tallest[None])
    own_angle = mirror * places.turn + 0.06 * spread * u[:, 3]
    jitter = 0.07 * spread * u[:, 4:]

    has_parent, parent = places.parent >= 0, jnp.maximum(places.parent, 0)
    angle = own_angle
    for _ in range(_MAX_DEPTH):
        angle = jnp.where(has_parent, own_angle + angle[parent], own_angle)
        is_present = is_present & (is_present[parent] | ~has_parent)
    cos, sin = jnp.abs(jnp.cos(angle)), jnp.abs(jnp.sin(angle))
    reach = jnp.stack(
        [cos * size[:, 0] + sin * size[:, 2], sin * size[:, 0] + cos * size[:, 2]], 1
    )
    limit = jnp.maximum(room[None, ::2] - reach / 2, 0.0)
    flip = jnp.stack([mirror, jnp.ones(())])[None]
    in_room = flip * places.at * limit + jitter
    edge = flip * (places.at * size[parent][:, ::2] / 2 + places.gap)
    from_parent = _rotate(angle[parent], edge) + 0.5 * jitter
    stands_on = places.is_on_top & has_parent
    xz = jnp.clip(in_room, -limit, limit)
    y = jnp.zeros((num_places,))
    surface = jnp.asarray(_TOP)[places.kind] * size[:, 1]
    for _ in range(_MAX_DEPTH):
        beside = jnp.where(has_parent[:, None], xz[parent] + from_parent, in_room)
        xz = jnp.clip(beside, -limit, limit)
        y = jnp.where(stands_on, y[parent] + surface[parent], 0.0)
    position = jnp.stack([xz[:, 0], y, xz[:, 1]], axis=1)
    return Items(
        jnp.asarray(places.kind),
        position,
        size,
        angle,
        is_present,
        places.chance == 1,
        jnp.broadcast_to(mirror, (num_places,)),
    )


def clearance(items: Items, spots: Float[Array, "spots 2"]) -> Float[Array, "spots"]:
    """Metres from each spot on the floor to the nearest item; negative: inside of it.

    Args:
      items: the furniture.
      spots: `[spots, 2]` x and z.
    """

    def of_spot(spot):
        away = _rotate(-items.angle, spot[None] - items.position[:, ::2])
        beyond = jnp.abs(away) - items.size[:, ::2] / 2
        distance = jnp.max(beyond, axis=1)
        return jnp.min(jnp.where(items.is_present, distance, jnp.inf))

    return jax.vmap(of_spot)(spots)


def place_small_things(
    draw: Draws,
    furniture: Items,
    clutter: Int[Array, ""],
    room: Float[Array, "3"],
    camera: Float[Array, "3"],
) -> Items:
    """Put small things on furniture and on the floor, more of them at higher levels.

    Args:
      draw: random numbers.
      furniture: what stands in the room.
      clutter: the level.
      room: half the width, the height, half the length.
      camera: its position, which is left free.
    """
    n, num_spots = NUM_SMALL_THINGS, 6
    least, most = (
        jnp.asarray(table)[clutter] for table in (_LEAST_THINGS, _MOST_THINGS)
    )
    count = least + jnp.floor(draw.uniform() * (most - least + 1))
    kinds = np.array([_NAMES.index(name) for name in SMALL_THINGS], np.int32)
    kind = draw.choice(kinds, n)
    size = jnp.asarray(_SIZE)[kind]
    size = size * draw.uniform(n, 1, low=0.75, high=1.4)

    spots = draw.signed(n, num_spots, 2)
    spots = spots * (room[None, None, ::2] - 0.3)
    free = jax.vmap(lambda own: clearance(furniture, own))(spots)
    near = jnp.hypot(spots[..., 0] - camera[0], spots[..., 1] - camera[2]) < 1.2
    free = jnp.where(near, -1.0, free) - size[:, :1] / 2
    best = jnp.argmax(free > 0, axis=1)
    rows = jnp.arange(n)
    on_floor, fits = spots[rows, best], free[rows, best] > 0

    # A plant is too large for a table.
    wants_floor = draw.bernoulli(0.45, n) | (size[:, 1] > 0.7)
    top = jnp.asarray(_TOP)[furniture.kind]
    can_carry = furniture.is_present & (top > 0)
    noise = draw.uniform(n, len(top))
    support = jnp.argmax(jnp.where(can_carry[None], noise, -jnp.inf), axis=1)
    is_on_top = jnp.any(can_carry) & ~wants_floor
    under = jax.tree.map(lambda leaf: leaf[support], furniture)
    u = draw.signed(n, 3)
    room_left = jnp.maximum(under.size[:, ::2] / 2 - size[:, ::2] / 2, 0.0)
    beside = _rotate(under.angle, u[:, :2] * room_left)
    carried = under.position[:, ::2] + beside
    height = under.position[:, 1] + top[support] * under.size[:, 1]
    xz = jnp.where(is_on_top[:, None], carried, on_floor)
    y = jnp.where(is_on_top, height, 0.0)
    return Items(
        jnp.asarray(kind),
        jnp.stack([xz[:, 0], y, xz[:, 1]], axis=1),
        size,
        jnp.pi * u[:, 2],
        (rows.astype(jnp.float32) < count) & (is_on_top | fits),
        jnp.zeros((n,), bool),
        jnp.broadcast_to(furniture.mirror[0], (n,)),
    )
