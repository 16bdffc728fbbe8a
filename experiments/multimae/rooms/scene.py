"""A room as arrays: solids, flat regions, materials, camera and light."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int

from experiments.multimae.rooms.furniture import FLAT_REGIONS

NUM_BOXES, NUM_LEGS, NUM_ROUNDS = 26, 8, 28
"""Primitives that a room has at most; what is beyond is left out."""
NUM_SOLIDS = NUM_BOXES + NUM_LEGS + NUM_ROUNDS
NUM_SURFACES = NUM_SOLIDS + len(FLAT_REGIONS) + 6
"""A surface is a box, legs, a round part, a flat region or one of the room's planes, in
this order."""


class Solids(NamedTuple):
    """Primitives of one shape, each turned about its vertical axis."""

    center: Float[Array, "n 3"]
    half: Float[Array, "n 3"]
    """Half of the width, height and depth in metres."""
    turn: Float[Array, "n 2"]
    """Cosine and sine."""
    profile: Float[Array, "n 3"]
    """Round parts: a, b, c of x² + z² + a y² + b y + c = 0 in units of `half`. Legs:
    their thickness comes first. Boxes: not used."""


class Regions(NamedTuple):
    """Flat regions of the room's planes, in the order of `furniture.FLAT_REGIONS`."""

    plane: Int[Array, "n"]
    center: Float[Array, "n 2"]
    """In the plane: z and y on the left and right wall, x and z on floor and ceiling, x
    and y on the front and back wall."""
    half: Float[Array, "n 2"]
    """Negative: the room does not have it."""
    is_ellipse: Bool[Array, "n"]


class Materials(NamedTuple):
    """How each surface looks, and its class."""

    first: Float[Array, "surfaces 3"]
    """Linear RGB."""
    second: Float[Array, "surfaces 3"]
    texture: Int[Array, "surfaces"]
    cell: Float[Array, "surfaces"]
    """The size of the texture's cells in metres."""
    glow: Float[Array, "surfaces"]
    """The light that it sends out by itself, in units of its colour."""
    semantics: Int[Array, "surfaces"]


class Camera(NamedTuple):
    """A pinhole camera."""

    position: Float[Array, "3"]
    right: Float[Array, "3"]
    """Unit vectors, of which forward is the optical axis."""
    up: Float[Array, "3"]
    forward: Float[Array, "3"]
    slope: Float[Array, ""]
    """Tangent of half the angle of view, along the longer side of the picture."""


class Light(NamedTuple):
    """A point light and the ambient light."""

    position: Float[Array, "3"]
    color: Float[Array, "3"]
    ambient: Float[Array, "3"]


class Scene(NamedTuple):
    """A room. x is to the right, y up, z to the back; the floor's centre is 0."""

    room: Float[Array, "3"]
    """Half the width, the height, half the length, in metres."""
    boxes: Solids
    legs: Solids
    rounds: Solids
    regions: Regions
    materials: Materials
    camera: Camera
    light: Light
    label: Int[Array, ""]
    clutter: Int[Array, ""]
    """Its level, from 0."""
    is_rare: Bool[Array, ""]
