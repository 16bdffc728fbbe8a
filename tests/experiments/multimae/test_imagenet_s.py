"""ImageNet-S's layout: read by id, damaged files named before training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from attent_jax.data import epoch_batches
from attent_jax.selectors import uniform
from experiments.multimae.imagenet_s import ImageNetS
from experiments.multimae.reading import DataError, check

CLASSES = ("n01443537", "n01491361")
SIZE = (30, 20)  # width, height


def write_picture(root, split, wnid, number, shade):
    relative = f"{split}/{wnid}/{wnid}_{number}"
    width, height = SIZE
    depth = np.full((height, width), 655 * (number + 1), np.uint16)
    depth[0] = 0
    semantics = np.full((height, width), number, np.uint8)
    semantics[:, : width // 2] = 255
    rgb = np.full((height, width, 3), shade, np.uint8)
    rgb[:, width // 2 :] = 0
    for path, array in (
        (root / f"{relative}.JPEG", rgb),
        (root / "depth" / f"{relative}.png", depth),
        (root / "semantics" / f"{relative}.png", semantics),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, quality=100)


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 3), ("validation", 1)):
        for number in range(count):
            for shade, wnid in zip((240, 120), CLASSES, strict=True):
                write_picture(tmp_path, split, wnid, number, shade)
    return tmp_path


def source_of(root, split="train", size=10):
    return ImageNetS(root, split, size=size, num_semantic_classes=5)


def test_examples_are_read_by_id_with_all_modalities(root):
    source = source_of(root)
    assert len(source) == 6
    assert source.classes == CLASSES
    example = source[4]  # the second of the second class
    assert example["label"] == 1
    np.testing.assert_allclose(example["aspect"], 1.5)
    assert example["rgb"].shape == (10, 10, 3)
    np.testing.assert_allclose(example["rgb"][:, :4], 120, atol=8)
    np.testing.assert_allclose(example["rgb"][:, 6:], 0, atol=8)
    np.testing.assert_allclose(example["depth"][1:], 2 * 655 / 65535, rtol=1e-6)
    assert np.isfinite(example["depth"][0]).all()  # row 1 of 20: the nearest
    assert (example["semantics"][:, :5] == 255).all()
    assert (example["semantics"][:, 5:] == 1).all()
    everything = source_of(root, size=20)[0]
    assert np.isnan(everything["depth"][0]).all()  # 0: no depth
    assert len(source_of(root, split="validation")) == 2


def test_the_pool_reads_batches_with_threads(root):
    pool = source_of(root).pool(num_threads=2)
    assert pool.num_threads == 2
    batch = pool.take(np.array([5, 0]))
    assert batch["rgb"].shape == (2, 10, 10, 3)
    assert batch["label"].tolist() == [1, 0]
    selection = uniform()(jax.random.key(0), jnp.zeros(6), 6)
    ids = [b.ids.tolist() for b in epoch_batches(pool, selection, 3, 0)]
    assert sorted(np.ravel(ids).tolist()) == list(range(6))


def test_a_sound_data_set_passes_whole_or_sampled(root):
    source = source_of(root)
    assert check(source) == 6
    assert check(source, num_checked=2) == 2
    with pytest.raises(ValueError, match="num_checked"):
        check(source, num_checked=0)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def save(path, array):
    Image.fromarray(array).save(path)


LAST = f"train/{CLASSES[1]}/{CLASSES[1]}_2"


@pytest.mark.parametrize(
    ("damage", "file", "problem"),
    [
        (truncate, f"{LAST}.JPEG", "cannot be read"),
        (lambda path: path.write_bytes(b""), f"{LAST}.JPEG", "cannot be read"),
        (lambda path: path.unlink(), f"depth/{LAST}.png", "missing"),
        (lambda path: path.unlink(), f"semantics/{LAST}.png", "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]),
         f"depth/{LAST}.png", "cannot be read"),
        (lambda path: save(path, np.full((20, 30), 7, np.uint8)),
         f"semantics/{LAST}.png", "class 7 is out of range"),
        (lambda path: save(path, np.zeros((20, 31), np.uint8)),
         f"semantics/{LAST}.png", "31 × 20 pixels"),
        (lambda path: save(path, np.zeros((20, 30), np.uint8)),
         f"depth/{LAST}.png", "16 bits"),
        (lambda path: save(path, np.zeros((20, 30, 3), np.uint8)),
         f"semantics/{LAST}.png", "8 bits"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_before_training(root, damage, file, problem):
    damage(root / file)
    with pytest.raises(DataError, match=problem) as error:
        check(source_of(root))
    assert str(root / file) in str(error.value)
    assert len(str(error.value).splitlines()) == 1  # the other five are sound


def test_many_damaged_files_are_counted(root):
    for path in root.glob("depth/train/*/*"):
        path.unlink()
    with pytest.raises(DataError) as error:
        check(source_of(root))
    assert str(error.value).count("the file is missing") == 6


def test_wrong_folders_are_named(root, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        source_of(root / "nowhere")
    (root / "validation" / "n99999999").mkdir()
    with pytest.raises(DataError, match="n99999999: this class is not among"):
        source_of(root, split="validation")
    empty = tmp_path / "empty"
    (empty / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no class folder holds a picture"):
        source_of(empty)
