"""Pictures: what becomes of a file, and which files are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.inr import pictures
from experiments.inr.pictures import load_picture, shipped_picture
from experiments.study.options import OptionError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(side=24):
    """Red and green above, blue and white below."""
    corners = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return corners.repeat(side // 2, axis=0).repeat(side // 2, axis=1)


def scene(height=24, width=24):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(height, width, 3)).astype(np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_a_file_becomes_coordinates_and_values(tmp_path):
    path = saved(tmp_path / "quarters.png", Image.fromarray(quarters()))
    signal = load_picture(path, 12)
    assert signal.shape == (12, 12)
    assert signal.name == "quarters"
    assert signal.coordinates.dtype == signal.values.dtype == np.float32
    for down, right, colour in [
        (-1, -1, RED),
        (-1, 1, GREEN),
        (1, -1, BLUE),
        (1, 1, WHITE),
    ]:
        (point,) = np.flatnonzero((signal.coordinates == [down, right]).all(axis=1))
        np.testing.assert_allclose(signal.values[point], np.array(colour) / 127.5 - 1)
    as_grid = signal.on_grid(signal.coordinates)
    assert (np.diff(as_grid[..., 0], axis=0) > 0).all()
    assert (np.diff(as_grid[..., 1], axis=1) > 0).all()


def test_an_unscaled_picture_keeps_its_values():
    array = scene()
    signal = load_picture(array, 24)
    np.testing.assert_allclose(
        signal.on_grid(signal.values), array / 127.5 - 1, atol=1e-6
    )


def test_resizing_averages_what_it_cannot_show():
    # Picking pixels would show black or white.
    board = (np.indices((96, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)
    signal = load_picture(np.repeat(board[..., None], 3, axis=-1), 12)
    assert np.abs(signal.values).max() < 0.05


def test_the_crop_is_central():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    assert (load_picture(wide, 20).values > 0.5).all()
    tall = wide.transpose(1, 0, 2)
    assert (load_picture(np.ascontiguousarray(tall), 20).values > 0.5).all()


@given(
    st.integers(20, 90), st.integers(20, 90), st.integers(11, 25), st.integers(0, 99)
)
def test_a_random_crop_is_a_square_in_the_picture(height, width, size, seed):
    array = scene(height, width)
    signal = load_picture(array, size, crop_seed=seed)
    left, upper, right, lower = signal.fingerprint["crop"]
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    assert right - left == lower - upper
    assert right - left >= max(min(height, width) / 2, size / 1.25)
    again = load_picture(array, size, crop_seed=seed)
    np.testing.assert_array_equal(again.values, signal.values)
    assert again.fingerprint == signal.fingerprint


def test_seeds_have_different_crops():
    crops = {
        tuple(load_picture(scene(40, 60), 12, crop_seed=seed).fingerprint["crop"])
        for seed in range(20)
    }
    assert len(crops) > 15


def test_the_fingerprint_follows_the_pixels_and_the_crop():
    array = scene(40, 60)
    base = load_picture(array, 12).fingerprint
    assert load_picture(array, 12).fingerprint == base
    assert load_picture(array, 13).fingerprint != base
    assert load_picture(array, 12, crop_seed=1).fingerprint != base
    array[0, 0, 0] ^= 1
    assert load_picture(array, 12).fingerprint != base


def test_a_camera_held_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = Image.fromarray(np.rot90(quarters()).copy())
    path = saved(tmp_path / "upright.png", turned, exif=exif)
    upright = load_picture(path, 24)
    np.testing.assert_allclose(
        upright.on_grid(upright.values), quarters() / 127.5 - 1, atol=1e-6
    )


def test_a_jpeg_with_a_preview_is_one_picture(tmp_path):
    image = Image.fromarray(quarters())
    path = tmp_path / "camera.jpg"
    image.save(path, format="MPO", save_all=True, append_images=[image.resize((8, 8))])
    assert load_picture(path, 24).shape == (24, 24)


def png_of_16_bits(height, width):
    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + checksum.to_bytes(4)

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 6 * width) * height))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*content) for content in chunks)


def bytes_of(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def frames(kind):
    first, second = Image.fromarray(scene()), Image.fromarray(quarters())
    return bytes_of(first, format=kind, save_all=True, append_images=[second])


BAD = {
    "empty": lambda: b"",
    "text": lambda: b"not a picture",
    "truncated": lambda: bytes_of(Image.fromarray(scene()), format="PNG")[:600],
    "broken": lambda: bytes_of(Image.fromarray(scene()), format="PNG")[:45],
    "short jpeg": lambda: bytes_of(Image.fromarray(scene(90, 90)), format="JPEG")[
        :-500
    ],
    "grey": lambda: bytes_of(Image.new("L", (24, 24)), format="PNG"),
    "grey alpha": lambda: bytes_of(Image.new("LA", (24, 24)), format="PNG"),
    "alpha": lambda: bytes_of(Image.new("RGBA", (24, 24)), format="PNG"),
    "palette": lambda: bytes_of(Image.new("P", (24, 24)), format="PNG"),
    "colour key": lambda: bytes_of(
        Image.new("RGB", (24, 24)), format="PNG", transparency=(0, 0, 0)
    ),
    "ink": lambda: bytes_of(Image.new("CMYK", (24, 24)), format="JPEG"),
    "16-bit grey": lambda: bytes_of(Image.new("I;16", (24, 24)), format="PNG"),
    "16-bit RGB": lambda: png_of_16_bits(24, 24),
    "gif": lambda: frames("GIF"),
    "animated png": lambda: frames("PNG"),
    "pages": lambda: frames("TIFF"),
    "small": lambda: bytes_of(Image.fromarray(scene(9, 40)), format="PNG"),
}
REASONS = {
    "empty": "is not a picture",
    "text": "is not a picture",
    "truncated": "does not decode.*complete PNG",
    "broken": "does not decode",
    "short jpeg": "does not decode",
    "grey": "has one channel. Convert it to RGB",
    "grey alpha": "one channel and alpha",
    "alpha": "an alpha channel. Convert it to RGB",
    "palette": "a palette",
    "colour key": "a transparent colour",
    "ink": "CMYK",
    "16-bit grey": "16 bits per channel. Convert it to 8-bit RGB",
    "16-bit RGB": "16 bits per channel",
    "gif": "2 frames. Save one frame",
    "animated png": "2 frames",
    "pages": "2 frames",
    "small": "40 × 9 pixels, too few for a size of 12. Ask for 11 or less",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_refused(kind, tmp_path):
    path = tmp_path / "my picture.bin"
    path.write_bytes(BAD[kind]())
    with pytest.raises(OptionError, match=REASONS[kind]) as refusal:
        load_picture(path, 12)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((24, 24), np.uint8),
        np.zeros((24, 24, 4), np.uint8),
        np.zeros((24, 24, 3), np.float32),
    ],
    ids=["grey", "alpha", "float"],
)
def test_an_array_that_is_refused(array):
    with pytest.raises(OptionError, match="Give uint8 values"):
        load_picture(array, 12)


@pytest.mark.parametrize("size", [10, 0, -5, 64.0, True])
def test_a_size_is_refused_before_the_file_is_read(size):
    with pytest.raises(OptionError, match="11 or more"):
        load_picture("missing.png", size)
    with pytest.raises(OptionError, match="11 or more"):
        shipped_picture("missing", size)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        load_picture("missing.png", 12)


def test_shipped_pictures_are_there_and_varied():
    assert len(pictures.REPORTED) >= 10
    assert len(pictures.TUNING) >= 4
    assert not pictures.REPORTED.keys() & pictures.TUNING.keys()
    files = [entry.path for entry in (pictures.REPORTED | pictures.TUNING).values()]
    assert len(set(files)) == len(files)
    for name in (*pictures.REPORTED, *pictures.TUNING):
        signal = shipped_picture(name, 16)
        assert signal.values.shape == (256, 3)
        assert signal.values.std() > 0.02
        assert signal.name == name
        about = (pictures.REPORTED | pictures.TUNING)[name].about
        is_grey = (signal.values == signal.values[:, :1]).all()
        assert is_grey == ("grey" in about)
        with Image.open(pictures.shipped_path(name)) as image:
            assert about.endswith(f"{image.width} × {image.height}")


def test_a_shipped_picture_that_is_not_there(monkeypatch):
    with pytest.raises(OptionError, match=r"'cat'\. There are astronaut, chelsea"):
        shipped_picture("cat", 16)
    gone = {
        "one": pictures.Shipped("no_such_package", "one.png", ""),
        "two": pictures.Shipped("skimage", "data/two.png", ""),
    }
    monkeypatch.setattr(pictures, "REPORTED", gone)
    with pytest.raises(OptionError, match="no_such_package, which is not installed"):
        shipped_picture("one", 16)
    with pytest.raises(OptionError, match="Reinstall skimage"):
        shipped_picture("two", 16)
