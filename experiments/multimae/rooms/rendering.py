"""Rooms by id: RGB, exact depth, exact semantics and a room type."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from attent_jax.data import ArrayPool
from experiments.multimae.rooms.furniture import LAYOUTS
from experiments.multimae.rooms.placement import NUM_CLUTTER_LEVELS
from experiments.multimae.rooms.ray_casting import Vector, first_surface
from experiments.multimae.rooms.sampling import RoomDistribution, sample_scene
from experiments.multimae.rooms.scene import Scene
from experiments.multimae.rooms.shading import shade

LABELS = tuple(LAYOUTS)
"""The room types; with a tail, the most common first."""
_RAYS_PER_BATCH = 64 * 48 * 48


class Rooms(NamedTuple):
    """Pictures of rooms, on the host."""

    rgb: Num[np.ndarray, "rooms h w 3"]
    """0 to 1, as a display takes it; or 0 to 255 in a pool."""
    depth: Float[np.ndarray, "rooms h w"]
    """Metres along the optical axis, at the pixel's centre."""
    semantics: Int[np.ndarray, "rooms h w"]
    """Indices into `CLASSES`, at the pixel's centre."""
    label: Int[np.ndarray, "rooms"]
    """Indices into `LABELS`."""
    clutter: Int[np.ndarray, "rooms"]
    """The clutter level, 0 to 3."""
    is_rare: Bool[np.ndarray, "rooms"]
    """Whether the layout is a rare one."""


def _rays(scene: Scene, shape: tuple[int, int], offset: Any):
    """Directions through the pixels, `[h * w]` each; 1 along the optical axis."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    unit = 2 / max(height, width)
    x = (jnp.asarray(columns) + (0.5 - width / 2) + offset[1]) * unit
    y = (jnp.asarray(rows) + (0.5 - height / 2) + offset[0]) * unit
    camera = scene.camera
    right, up = x * camera.slope, -y * camera.slope
    parts = zip(camera.forward, camera.right, camera.up, strict=True)
    directions = Vector(*(f + r * right + u * up for f, r, u in parts))
    return directions, unit * camera.slope


class _Planes(NamedTuple):
    """What the camera sees, `[h * w]` each.

    Colours are stacked outside of the program, which is faster on CPUs.
    """

    red: Any
    green: Any
    blue: Any
    depth: Any
    semantics: Any


def _look(scene: Scene, shape: tuple[int, int], supersample: int) -> _Planes:
    start = Vector(*scene.camera.position)
    trace = jax.vmap(lambda direction: first_surface(scene, start, direction))
    paint = jax.vmap(partial(shade, scene), in_axes=(0, 0, 0, None))
    directions, pixel = _rays(scene, shape, (0.0, 0.0))
    depth, surface = center = trace(directions)

    def add_sample(total, offset):
        directions, _ = _rays(scene, shape, offset)
        colors = paint(directions, *trace(directions), pixel / supersample)
        return jax.tree.map(jnp.add, total, colors), None

    if supersample == 1:
        colors = paint(directions, *center, pixel)
    else:
        offsets = (np.arange(supersample, dtype=np.float32) + 0.5) / supersample - 0.5
        grid = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
        black = (jnp.zeros_like(depth),) * 3
        total, _ = jax.lax.scan(add_sample, black, jnp.asarray(grid))
        colors = tuple(color / len(grid) for color in total)
    red, green, blue = colors
    return _Planes(red, green, blue, depth, scene.materials.semantics[surface])


@partial(jax.jit, static_argnames="rooms")
def _sample(rng: jax.Array, ids: jax.Array, rooms: RoomDistribution) -> Scene:
    return jax.vmap(lambda id_: sample_scene(jax.random.fold_in(rng, id_), rooms))(ids)


@partial(jax.jit, static_argnames=("shape", "supersample", "is_compact"))
def _look_at_all(
    scenes: Scene, shape: tuple[int, int], supersample: int, is_compact: bool
) -> _Planes:
    planes = jax.vmap(lambda scene: _look(scene, shape, supersample))(scenes)
    if not is_compact:
        return planes
    red, green, blue = (
        jnp.round(255 * color).astype(jnp.uint8) for color in planes[:3]
    )
    return _Planes(red, green, blue, planes.depth, planes.semantics.astype(jnp.uint8))


def _check_shape(shape: Any) -> tuple[int, int]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sizes) != 2 or not all(isinstance(s, int) and s > 0 for s in sizes):
        raise ValueError(
            f"shape must be a height and a width in pixels, got {shape!r}: pass e.g. "
            f"(48, 48)."
        )
    return sizes


def _render(
    ids: np.ndarray,
    shape: tuple[int, int],
    seed: int,
    rooms: RoomDistribution,
    supersample: int,
    is_compact: bool,
) -> tuple[_Planes, Scene]:
    if supersample < 1:
        raise ValueError(
            f"supersample must be at least 1, got {supersample}: pass 1 or more."
        )
    shape = _check_shape(shape)
    scenes = _sample(jax.random.key(seed), jnp.asarray(ids, jnp.int32), rooms)
    return _look_at_all(scenes, shape, supersample, is_compact), scenes


def _to_host(planes: _Planes, scenes: Scene, shape: tuple[int, int]) -> Rooms:
    pictures = _Planes(*(np.asarray(plane).reshape(-1, *shape) for plane in planes))
    return Rooms(
        np.stack(pictures[:3], axis=-1),
        pictures.depth,
        pictures.semantics,
        np.asarray(scenes.label),
        np.asarray(scenes.clutter),
        np.asarray(scenes.is_rare),
    )


def render(
    ids: Int[np.ndarray, "rooms"],
    shape: tuple[int, int],
    *,
    seed: int,
    rooms: RoomDistribution | None = None,
    supersample: int = 1,
) -> Rooms:
    """Render rooms.

    A room depends only on its seed, its id and the distribution.

    Args:
      ids: `[rooms]` any non-negative integers below 2³¹.
      shape: height and width of the pictures in pixels.
      seed: of the data set.
      rooms: how common which rooms are; None: `RoomDistribution()`.
      supersample: RGB is the mean over so many rays on a side of each pixel. Depth and
        semantics have one ray, through the pixel's centre.

    Returns:
      The rooms, with RGB from 0 to 1 and depth as float32.

    Raises:
      ValueError: if shape or supersample is out of range.

    Example:
      >>> import numpy as np
      >>> from experiments.multimae import rooms
      >>> some = rooms.render(np.array([7, 8]), (8, 12), seed=0)
      >>> some.rgb.shape, some.depth.shape
      ((2, 8, 12, 3), (2, 8, 12))
    """
    distribution = RoomDistribution() if rooms is None else rooms
    planes, scenes = _render(ids, shape, seed, distribution, supersample, False)
    return _to_host(planes, scenes, shape)


class Groups(NamedTuple):
    """What kind of room each example of a pool is."""

    label: Int[np.ndarray, "rooms"]
    clutter: Int[np.ndarray, "rooms"]
    is_rare: Bool[np.ndarray, "rooms"]


GROUP_NAMES = tuple(
    f"{label}, clutter {level}"
    for label in LABELS
    for level in range(NUM_CLUTTER_LEVELS)
)
"""Of `group_numbers`."""


def group_numbers(groups: Groups) -> Int[np.ndarray, "rooms"]:
    """`[rooms]` one number for each pair of a room type and a clutter level."""
    return groups.label * NUM_CLUTTER_LEVELS + groups.clutter


def make_pool(
    num_rooms: int,
    shape: tuple[int, int],
    *,
    seed: int,
    rooms: RoomDistribution | None = None,
    first_id: int = 0,
    supersample: int = 1,
    depth_dtype: Any = np.float16,
    batch_size: int | None = None,
) -> tuple[ArrayPool, Groups]:
    """Render a data set to memory.

    Args:
      num_rooms: how many.
      shape: height and width of the pictures in pixels.
      seed: of the data set.
      rooms: how common which rooms are; None: `RoomDistribution()`.
      first_id: the pool has the rooms first_id, first_id + 1, …: let training and
        held-out rooms have different ones.
      supersample: rays on a side of each pixel, for RGB.
      depth_dtype: float16 rounds depths by less than 4 mm below 8 m.
      batch_size: rooms rendered at once; None: about 150,000 pixels. On accelerators,
        more is faster. The pool is the same to the bit for one batch size on one kind
        of device; for others, a few values differ by a rounding.

    Returns:
      A pool of `{"rgb": uint8 [h, w, 3], "depth": [h, w] in metres, "semantics": uint8
      [h, w], "label": int32 []}`, and the rooms' groups.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import numpy as np
      >>> from experiments.multimae import rooms
      >>> pool, groups = rooms.make_pool(3, (8, 8), seed=0, batch_size=2)
      >>> pool
      ArrayPool({'depth': float16[3,8,8], 'label': int32[3], 'rgb': uint8[3,8,8,3], \
'semantics': uint8[3,8,8]})
    """
    if num_rooms < 1 or first_id < 0 or first_id + num_rooms > 2**31 - 1:
        raise ValueError(
            f"the ids must lie in [0, 2³¹), got {num_rooms} rooms from {first_id} on: "
            f"lower num_rooms or first_id."
        )
    height, width = _check_shape(shape)
    size = batch_size or max(1, _RAYS_PER_BATCH // (height * width))
    distribution = RoomDistribution() if rooms is None else rooms
    arrays = Rooms(
        np.empty((num_rooms, height, width, 3), np.uint8),
        np.empty((num_rooms, height, width), depth_dtype),
        np.empty((num_rooms, height, width), np.uint8),
        np.empty(num_rooms, np.int32),
        np.empty(num_rooms, np.int32),
        np.empty(num_rooms, bool),
    )

    def start(first: int) -> tuple[_Planes, Scene]:
        # The last batch is full, too: one compilation, and the same numbers.
        ids = np.minimum(first_id + first + np.arange(size), 2**31 - 1)
        return _render(ids, shape, seed, distribution, supersample, True)

    upcoming = start(0)
    for first in range(0, num_rooms, size):
        current = upcoming
        if first + size < num_rooms:
            upcoming = start(first + size)  # while this batch is copied
        batch = _to_host(*current, (height, width))
        for array, rows in zip(arrays, batch, strict=True):
            array[first : first + size] = rows[: num_rooms - first]
    groups = Groups(arrays.label, arrays.clutter, arrays.is_rare)
    names = ("rgb", "depth", "semantics", "label")
    return ArrayPool({name: getattr(arrays, name) for name in names}), groups
