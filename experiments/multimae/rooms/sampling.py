"""Draw a room: its type, size, furniture, camera and light, from one key."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.multimae.rooms import placement, surfaces
from experiments.multimae.rooms.draws import Draws, make_draws
from experiments.multimae.rooms.furniture import LAYOUTS
from experiments.multimae.rooms.placement import NUM_CLUTTER_LEVELS, Items
from experiments.multimae.rooms.scene import Camera, Light, Scene


@dataclasses.dataclass(frozen=True)
class RoomDistribution:
    """How rooms are drawn: how common the rare ones are, and how full the rooms.

    Args:
      label_tail: the k-th room type has a share in proportion to k^-label_tail; 0:
        all types are equally common.
      clutter_shares: shares of the four clutter levels, from empty to cluttered.
      rare_share: share of the rooms with a rare layout: furniture far from its usual
        places, an unusual camera and dim light.
      variation: how far common layouts vary; 0: furniture stands exactly in place.

    Raises:
      ValueError: if a number is out of range.
    """

    label_tail: float = 1.0
    clutter_shares: tuple[float, ...] = (0.35, 0.35, 0.2, 0.1)
    rare_share: float = 0.1
    variation: float = 1.0

    def __post_init__(self):
        shares = self.clutter_shares
        if len(shares) != NUM_CLUTTER_LEVELS or min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(
                f"clutter_shares must be {NUM_CLUTTER_LEVELS} shares that are not "
                f"negative, got {shares}: pass e.g. (0.35, 0.35, 0.2, 0.1)."
            )
        for name, high in (
            ("label_tail", math.inf),
            ("rare_share", 1.0),
            ("variation", 3.0),
        ):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ValueError(
                    f"{name} must lie in [0, {high:g}], got {value}: choose a value in "
                    f"that range."
                )

    @property
    def label_shares(self) -> Float[np.ndarray, "labels"]:
        """`[labels]` how common each room type is."""
        shares = np.arange(1.0, len(LAYOUTS) + 1) ** -self.label_tail
        return shares / shares.sum()


def sample_scene(rng: jax.Array, rooms: RoomDistribution) -> Scene:
    """Draw a room.

    Args:
      rng: the room's key.
      rooms: the distribution that it is drawn from.
    """
    draws = make_draws(rng)
    draw = draws["type"]
    label = draw.index(rooms.label_shares)
    clutter = draw.index(rooms.clutter_shares)
    is_rare = draw.bernoulli(rooms.rare_share)
    spread = rooms.variation * jnp.where(is_rare, 4.0, 1.0)
    sizes = draw.uniform(3)
    low, high = (
        jnp.asarray(size)[label] for size in (placement.ROOM_LOW, placement.ROOM_HIGH)
    )
    room = low + sizes * (high - low)
    furniture = placement.place_furniture(
        draws["furniture"], label, clutter, room, spread
    )
    camera = _sample_camera(draws["camera"], furniture, room, is_rare)
    things = placement.place_small_things(
        draws["small things"], furniture, clutter, room, camera.position
    )
    items = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), furniture, things)
    regions, region_materials = surfaces.sample_regions(
        draws["regions"], label, clutter, room, furniture.mirror[0]
    )
    (boxes, legs, rounds), solid_materials = surfaces.make_solids(
        draws["colors"], items
    )
    materials = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves),
        *solid_materials,
        region_materials,
        surfaces.plane_materials(draws["planes"]),
    )
    return Scene(
        room=room,
        boxes=boxes,
        legs=legs,
        rounds=rounds,
        regions=regions,
        materials=materials,
        camera=camera,
        light=_sample_light(draws["light"], room, is_rare),
        label=label,
        clutter=clutter,
        is_rare=is_rare,
    )


def _sample_camera(
    draw: Draws, items: Items, room: jax.Array, is_rare: jax.Array
) -> Camera:
    """At the front of the room, or anywhere along its walls where that is rare."""
    num_spots = 8
    u = draw.signed(num_spots, 2)
    angle = jnp.pi * u[:, 0]
    ring = jnp.clip(1.5 * jnp.stack([jnp.sin(angle), jnp.cos(angle)], 1), -1.0, 1.0)
    front = jnp.stack([0.7 * u[:, 0], -0.94 + 0.06 * u[:, 1]], axis=1)
    spots = jnp.where(is_rare, ring, front) * (room[None, ::2] - 0.2)
    free = jnp.minimum(placement.clearance(items, spots), 0.8)
    x, z = spots[jnp.argmax(free)]
    jitter = draw.signed(5)
    height = jnp.where(is_rare, 1.3 + 0.8 * jitter[0], 1.55 + 0.15 * jitter[0])
    is_focus = items.is_present & items.is_required
    focus = jnp.mean(items.position, axis=0, where=is_focus[:, None])
    wobble = 0.3 * jnp.where(is_rare, 2.0, 1.0)
    target = jnp.stack(
        [
            focus[0] + wobble * jitter[1],
            0.75 + 0.5 * wobble * jitter[2],
            focus[2] + wobble * jitter[3],
        ]
    )
    position = jnp.stack([x, height, z])
    forward = target - position
    # A target straight below has no direction; it is also no view of a room.
    forward = forward + jnp.array([0.0, 0.0, 1e-3])
    forward = forward / jnp.linalg.norm(forward)
    level = jnp.hypot(forward[0], forward[2])
    right = jnp.stack([forward[2], jnp.zeros(()), -forward[0]]) / level
    up = jnp.cross(forward, right)
    slope = jnp.where(is_rare, 0.7 + 0.2 * jitter[4], 0.68 + 0.06 * jitter[4])
    return Camera(position, right, up, forward, slope)


def _sample_light(draw: Draws, room: jax.Array, is_rare: jax.Array) -> Light:
    u = draw.uniform(5)
    position = jnp.stack(
        [
            (u[0] - 0.5) * room[0],
            room[1] - 0.15,
            (u[1] - 0.5) * room[2],
        ]
    )
    warmth = 0.2 * (u[2] - 0.35)
    tone = jnp.stack([1 + warmth, jnp.ones(()), 1 - 1.4 * warmth])
    level = jnp.where(is_rare, 0.3 + 0.6 * u[3], 0.8 + 0.3 * u[3])
    return Light(position, 1.1 * level * tone, (0.4 + 0.15 * u[4]) * level * tone)
