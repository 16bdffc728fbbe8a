"""Random and central crops of examples, alike for RGB, depth and semantics.

Crops are made on the device, in the loss, so that pools read an example the same way
each time and randomness has a key. Boxes are in fractions of the picture: a pool may
store pictures of any shape in one canvas, with their aspect ratio beside it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from attent_jax.typing import Batch

MAPS = ("rgb", "depth", "semantics")
_NUM_TRIES = 10


class Crop(NamedTuple):
    """A part of a picture, in fractions of its height and width."""

    top: Float[Array, ""]
    left: Float[Array, ""]
    height: Float[Array, ""]
    width: Float[Array, ""]
    is_flipped: Bool[Array, ""]
    """Whether left and right are exchanged."""


def random_crop(
    rng: Key[Array, ""],
    aspect: Float[Array, ""],
    *,
    area: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
) -> Crop:
    """Draw a crop of random area, shape and place.

    The distribution is that of the usual "random resized crop": up to ten draws of an
    area and a shape until one fits into the picture, then any place.

    Args:
      rng: the example's key.
      aspect: the picture's width over its height.
      area: least and greatest share of the picture.
      ratio: least and greatest width over height; drawn evenly in its logarithm.
      flip: the chance that left and right are exchanged.

    Returns:
      A crop inside of the picture. If no draw fits: the largest one at its centre.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> crop = random_crop(jax.random.key(0), jnp.array(1.5), area=(0.2, 0.2))
      >>> round(float(crop.height * crop.width), 5)
      0.2
    """
    for_shape, for_place, for_flip = jax.random.split(rng, 3)
    u = jax.random.uniform(for_shape, (2, _NUM_TRIES))
    areas = area[0] + (area[1] - area[0]) * u[0]
    low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
    shapes = jnp.exp(low + (high - low) * u[1]) / aspect
    heights, widths = jnp.sqrt(areas / shapes), jnp.sqrt(areas * shapes)
    fits = (heights <= 1) & (widths <= 1)
    first = jnp.argmax(fits)
    largest_height = jnp.minimum(aspect / ratio[0], 1.0)
    largest_width = jnp.minimum(ratio[1] / aspect, 1.0)
    is_found = fits[first]
    height = jnp.where(is_found, heights[first], largest_height)
    width = jnp.where(is_found, widths[first], largest_width)
    place = jnp.where(is_found, jax.random.uniform(for_place, (2,)), 0.5)
    return Crop(
        top=place[0] * (1 - height),
        left=place[1] * (1 - width),
        height=height,
        width=width,
        is_flipped=jax.random.bernoulli(for_flip, flip),
    )


def central_crop(aspect: Float[Array, ""], *, share: float = 1.0) -> Crop:
    """The square at the picture's centre, for evaluation.

    Args:
      aspect: the picture's width over its height.
      share: the square's side over the picture's shorter side.
    """
    height, width = share * jnp.minimum(aspect, 1.0), share / jnp.maximum(aspect, 1.0)
    no = jnp.zeros((), bool)
    return Crop((1 - height) / 2, (1 - width) / 2, height, width, no)


def cut(
    example: Mapping[str, Array],
    crop: Crop,
    size: tuple[int, int],
    *,
    label_stride: int = 1,
) -> dict[str, Array]:
    """Cut the same part out of all maps of an example.

    RGB is averaged and interpolated linearly; depth and semantics take the nearest
    pixel, as a mean of depths or classes exists nowhere in the room.

    Args:
      example: "rgb" `[h, w, 3]`, "depth" `[h, w]` and "semantics" `[h, w]`, or some of
        them; each may have a height and width of its own.
      crop: which part.
      size: height and width of the result in pixels.
      label_stride: semantics are smaller by this factor.

    Returns:
      The maps, with the types that they had.
    """
    result = {}
    for name, maps in example.items():
        if name == "rgb":
            maps = _interpolate(maps, crop, size)
        else:
            stride = label_stride if name == "semantics" else 1
            maps = _nearest(maps, crop, (size[0] // stride, size[1] // stride))
        result[name] = jnp.where(crop.is_flipped, maps[:, ::-1], maps)
    return result


def _interpolate(image: Array, crop: Crop, size: tuple[int, int]) -> Array:
    height, width, channels = image.shape
    scale = jnp.stack(
        [size[0] / (crop.height * height), size[1] / (crop.width * width)]
    )
    start = jnp.stack([crop.top * height, crop.left * width])
    values = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        (*size, channels),
        (0, 1),
        scale,
        -start * scale,
        method="linear",
    )
    if image.dtype == jnp.uint8:
        values = jnp.clip(jnp.round(values), 0, 255)
    return values.astype(image.dtype)


def _nearest(maps: Array, crop: Crop, size: tuple[int, int]) -> Array:
    def pixels(start, extent, count, available):
        centers = (jnp.arange(count, dtype=jnp.float32) + 0.5) / count * extent + start
        return jnp.clip(jnp.floor(centers * available).astype(int), 0, available - 1)

    rows = pixels(crop.top, crop.height, size[0], maps.shape[0])
    columns = pixels(crop.left, crop.width, size[1], maps.shape[1])
    return maps[rows][:, columns]


def random_views(
    rngs: Key[Array, "batch"],
    batch: Batch,
    size: tuple[int, int],
    *,
    area: tuple[float, float] = (0.2, 1.0),
    flip: float = 0.5,
    label_stride: int = 1,
) -> dict[str, Array]:
    """A random part of each example, for training.

    Args:
      rngs: `[batch]` a key for each example, e.g. `jax.random.split(rng, batch_size)`.
      batch: maps as `cut` takes them, with a leading axis; "aspect" `[batch]` if
        pictures are not of their array's shape; anything else is passed on.
      size: height and width of the result in pixels.
      area: least and greatest share of the picture.
      flip: the chance that left and right are exchanged.
      label_stride: semantics are smaller by this factor.

    Returns:
      The batch without "aspect", all maps of an example cut alike.
    """

    def view(rng, aspect, maps):
        crop = random_crop(rng, aspect, area=area, flip=flip)
        return cut(maps, crop, size, label_stride=label_stride)

    maps, aspect, others = _parts(batch)
    return others | jax.vmap(view)(rngs, aspect, maps)


def central_views(
    batch: Batch,
    size: tuple[int, int],
    *,
    share: float = 1.0,
    label_stride: int = 1,
) -> dict[str, Array]:
    """The centre of each example, for evaluation and for scores.

    Args:
      batch: as `random_views` takes it.
      size: height and width of the result in pixels.
      share: the square's side over the picture's shorter side.
      label_stride: semantics are smaller by this factor.
    """

    def view(aspect, maps):
        crop = central_crop(aspect, share=share)
        return cut(maps, crop, size, label_stride=label_stride)

    maps, aspect, others = _parts(batch)
    return others | jax.vmap(view)(aspect, maps)


def _parts(batch: Batch) -> tuple[dict[str, Array], Array, dict[str, Array]]:
    maps = {name: jnp.asarray(batch[name]) for name in MAPS if name in batch}
    if not maps:
        raise ValueError(
            f"the batch must have one of {', '.join(MAPS)}, got {sorted(batch)}: pass "
            f"a batch of maps."
        )
    first = next(iter(maps.values()))
    shape_ratio = first.shape[2] / first.shape[1]
    aspect = jnp.asarray(batch.get("aspect", jnp.full(len(first), shape_ratio)))
    others = {k: jnp.asarray(v) for k, v in batch.items() if k not in (*MAPS, "aspect")}
    return maps, aspect, others
