"""Pictures to fit: your own files, and those that ship with the dependencies."""

import importlib.metadata
import importlib.util
import io
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.inr.signals import Signal, digest, sampled
from experiments.study.options import OptionError

MIN_SIZE = 11
"""SSIM's window has 11 × 11 pixels."""
MAX_ENLARGEMENT = 1.25
"""A crop's side is at least `size / MAX_ENLARGEMENT` pixels."""
MIN_CROP = 0.5
"""Side of the smallest random crop, as a share of the picture's shorter side."""

_MODES = {
    "1": "one bit per pixel",
    "L": "one channel",
    "LA": "one channel and alpha",
    "PA": "a palette and alpha",
    "P": "a palette",
    "RGBA": "an alpha channel",
    "RGBa": "an alpha channel",
    "CMYK": "the four channels of CMYK",
    "F": "one channel of floating-point numbers",
    "I": "one channel of 32 bits",
}


class Shipped(NamedTuple):
    """A picture that a dependency installs."""

    package: str
    """Its import name."""
    path: str
    """Within the package."""
    about: str
    """What it shows. Grey pictures are converted to RGB."""


def _skimage(file: str, about: str) -> Shipped:
    return Shipped("skimage", f"data/{file}", about)


REPORTED: dict[str, Shipped] = {
    "astronaut": _skimage("astronaut.png", "portrait in front of a flag, 512 × 512"),
    "chelsea": _skimage("chelsea.png", "a cat's face, fine fur, 451 × 300"),
    "tissue": _skimage("ihc.png", "stained tissue under the microscope, 512 × 512"),
    "galaxies": _skimage("hubble_deep_field.jpg", "points on black, 1000 × 872"),
    "page": _skimage("page.png", "a photographed page of text, grey, 384 × 191"),
    "china": Shipped(
        "sklearn", "datasets/images/china.jpg", "a pagoda above trees, 640 × 427"
    ),
    "retina": _skimage("retina.jpg", "a retina's blood vessels, 1411 × 1411"),
    "rocket": _skimage("rocket.jpg", "a lit launch pad at dusk, 640 × 427"),
    "brick": _skimage("brick.png", "a regular brick wall, grey, 512 × 512"),
    "coffee": _skimage("coffee.png", "a cup, large smooth areas, 600 × 400"),
    "camera": _skimage("camera.png", "a man with a camera, grey, 512 × 512"),
    "hopper": Shipped(
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "portrait, 512 × 600"
    ),
    "moon": _skimage("moon.png", "the moon's surface, faint, grey, 512 × 512"),
}
"""Pictures that results are reported on, by name."""

TUNING: dict[str, Shipped] = {
    "flower": Shipped(
        "sklearn", "datasets/images/flower.jpg", "a dahlia, blurred ground, 640 × 427"
    ),
    "gravel": _skimage("gravel.png", "an irregular texture, grey, 512 × 512"),
    "motorcycle": _skimage("motorcycle_left.png", "a full garage, 741 × 500"),
    "text": _skimage("text.png", "handwritten formulas, grey, 448 × 172"),
    "grass": _skimage("grass.png", "a fine texture, grey, 512 × 512"),
    "coins": _skimage("coins.png", "coins on a dark ground, grey, 384 × 303"),
}
"""Other pictures, for finding learning rates."""


def load_picture(
    source: str | Path | UInt8[np.ndarray, "height width 3"],
    size: int,
    *,
    crop_seed: int | None = None,
) -> Signal:
    """A square picture of three channels, from a file or an array.

    The picture is turned as its camera says (EXIF), cropped to a square, and resized
    by an antialiased bicubic filter to 8-bit values. -1 is black and 1 is full
    intensity. Coordinates are (down, right).

    Args:
      source: a file that pillow decodes, or a uint8 array `[height, width, 3]`. Only
        RGB with 8 bits per channel.
      size: side of the result in pixels, `MIN_SIZE` or more, and at most
        `MAX_ENLARGEMENT` times the picture's shorter side.
      crop_seed: of a random square crop, whose side is `MIN_CROP` to all of the shorter
        side. None: the largest central square.

    Returns:
      A signal of shape `(size, size)` and three channels.

    Raises:
      OptionError: the picture does not decode, is not RGB with 8 bits, is animated, or
        is too small.

    Example:
      >>> stripes = np.zeros((20, 30, 3), np.uint8)
      >>> stripes[10:] = 255
      >>> signal = load_picture(stripes, 12)
      >>> signal.shape, signal.on_grid(signal.values)[[0, -1], 0, 0].tolist()
      ((12, 12), [-1.0, 1.0])
    """
    _check_size(size)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[-1] != 3:
            raise OptionError(
                f"the picture is an array {source.dtype}{list(source.shape)}. Give "
                "uint8 values of shape [height, width, 3]."
            )
        origin = {"array": list(source.shape), "sha256": digest(source.tobytes())}
        return _fit(Image.fromarray(source), size, crop_seed, "the array", origin)
    path = Path(source)
    data = path.read_bytes()
    image = _decode(data, path)
    _check_mode(image, path)
    image = ImageOps.exif_transpose(image)
    return _fit(image, size, crop_seed, str(path), _file_facts(path, data))


def shipped_picture(name: str, size: int, *, crop_seed: int | None = None) -> Signal:
    """A picture of `REPORTED` or `TUNING`. Grey ones are converted to RGB.

    Args:
      name: a key of either.
      size: as in `load_picture`.
      crop_seed: as in `load_picture`.

    Returns:
      A signal of shape `(size, size)` and three channels.

    Raises:
      OptionError: there is no such picture, or it is too small.

    Example:
      >>> shipped_picture("astronaut", 32).values.shape
      (1024, 3)
    """
    _check_size(size)
    path = shipped_path(name)
    data = path.read_bytes()
    image = _decode(data, path).convert("RGB")
    signal = _fit(image, size, crop_seed, f"{name!r}", _file_facts(path, data))
    return signal._replace(name=name)


def shipped_path(name: str) -> Path:
    """The file of a picture of `REPORTED` or `TUNING`.

    Args:
      name: a key of either.

    Returns:
      Its path.

    Raises:
      OptionError: there is no such picture, or its package is not installed.
    """
    shipped = (REPORTED | TUNING).get(name)
    if shipped is None:
        known = ", ".join([*REPORTED, *TUNING])
        raise OptionError(f"no shipped picture is named {name!r}. There are {known}.")
    spec = importlib.util.find_spec(shipped.package)  # does not import the package
    if spec is None or spec.origin is None:
        raise OptionError(
            f"the picture {name!r} ships with {shipped.package}, which is not "
            'installed. Run pip install "attent-jax[experiments]".'
        )
    path = Path(spec.origin).parent / shipped.path
    if not path.exists():
        raise OptionError(
            f"the picture {name!r} is missing: {path}. Reinstall {shipped.package}, or "
            "choose another picture."
        )
    return path


def is_large_enough(name: str, size: int) -> bool:
    """Whether a shipped picture can be fitted at this size.

    Args:
      name: a key of `REPORTED` or `TUNING`.
      size: side in pixels.

    Returns:
      False if it would be enlarged more than `MAX_ENLARGEMENT` times.

    Raises:
      OptionError: there is no such picture, or no such size.

    Example:
      >>> is_large_enough("chelsea", 180), is_large_enough("chelsea", 512)
      (True, False)
    """
    _check_size(size)
    with Image.open(shipped_path(name)) as image:  # reads the header only
        return size <= MAX_ENLARGEMENT * min(image.size)


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < MIN_SIZE:
        raise OptionError(
            f"a picture's size is {size!r}. Give its side in pixels, {MIN_SIZE} or "
            "more (a window of SSIM)."
        )


def _decode(data: bytes, path: Path) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        depth = [entry[3] for entry in image.tile]
        num_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        image.load()
    except Image.DecompressionBombError as error:
        raise OptionError(f"the picture {path} is too large: {error}.") from error
    except UnidentifiedImageError as error:  # its text names the buffer, not the file
        raise OptionError(
            f"{path} is not a picture. Give a PNG, JPEG or another file that pillow "
            "reads."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise OptionError(
            f"the picture {path} does not decode ({error}). Give a complete PNG, JPEG "
            "or another file that pillow reads."
        ) from error
    if num_frames > 1:
        raise OptionError(
            f"the picture {path} has {num_frames} frames. Save one frame as a file."
        )
    if image.mode.startswith("I;16") or ";16" in str(depth):
        raise OptionError(
            f"the picture {path} has 16 bits per channel. Convert it to 8-bit RGB."
        )
    return image


def _check_mode(image: Image.Image, path: Path) -> None:
    if image.mode != "RGB" or "transparency" in image.info:
        content = _MODES.get(image.mode, f"the mode {image.mode}")
        if image.mode == "RGB":
            content = "a transparent colour"
        raise OptionError(
            f"the picture {path} has {content}. Convert it to RGB, for example with "
            'PIL.Image.open(path).convert("RGB").save("rgb.png").'
        )


def _file_facts(path: Path, data: bytes) -> dict[str, Any]:
    return {"file": path.name, "bytes": len(data), "sha256": digest(data)}


def _fit(
    image: Image.Image,
    size: int,
    crop_seed: int | None,
    name: str,
    origin: dict[str, Any],
) -> Signal:
    shorter = min(image.size)
    if size > MAX_ENLARGEMENT * shorter:
        raise OptionError(
            f"the picture {name} has {image.width} × {image.height} pixels, too few "
            f"for a size of {size}. Ask for {int(MAX_ENLARGEMENT * shorter)} or less, "
            "or give a larger picture."
        )
    box = _crop(image.width, image.height, size, crop_seed)
    small = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    values = np.asarray(small, np.float32) / np.float32(127.5) - np.float32(1)
    fingerprint = origin | {
        "crop": list(box),
        "size": size,
        "pillow": importlib.metadata.version("pillow"),
    }
    stem = Path(origin["file"]).stem if "file" in origin else "array"
    return sampled(values, stem, fingerprint)


def _crop(
    width: int, height: int, size: int, seed: int | None
) -> tuple[int, int, int, int]:
    """`(left, upper, right, lower)` of the central square or of a random one."""
    shorter = min(width, height)
    if seed is None:
        left, upper = (width - shorter) // 2, (height - shorter) // 2
        return left, upper, left + shorter, upper + shorter
    rng = np.random.default_rng(seed)
    smallest = max(MIN_CROP * shorter, size / MAX_ENLARGEMENT)
    side = int(rng.integers(int(np.ceil(smallest)), shorter + 1))
    left = int(rng.integers(0, width - side + 1))
    upper = int(rng.integers(0, height - side + 1))
    return left, upper, left + side, upper + side
