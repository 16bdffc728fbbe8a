"""NYU Depth V2's files: MATLAB's axes, the standard split, 40 classes."""

import h5py
import numpy as np
import pytest
import scipy.io

from experiments.multimae.nyuv2 import NYUv2
from experiments.multimae.reading import DataError, check

NUM, HEIGHT, WIDTH, NUM_LABELS = 5, 6, 8, 9
TRAIN, TEST = [1, 4, 5], [3, 2]


def pictures():
    """As MATLAB has them: `[h, w, 3, n]`, `[h, w, n]`, `[h, w, n]`."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (HEIGHT, WIDTH, 3, NUM)).astype(np.uint8),
        "depths": rng.uniform(0.7, 9.9, (HEIGHT, WIDTH, NUM)).astype(np.float32),
        "labels": rng.integers(0, NUM_LABELS + 1, (HEIGHT, WIDTH, NUM)).astype(
            np.uint16
        ),
    }


def write_mat73(path, arrays):
    """A .mat file of version 7.3: HDF5, where MATLAB's axes come in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            chunks = (1, *array.T.shape[1:]) if array.ndim > 2 else None
            file.create_dataset(
                name,
                data=np.ascontiguousarray(array.T),
                chunks=chunks,
                compression="gzip" if chunks else None,
            )


CLASS_OF = np.array([1, 40, 3, 40, 5, 6, 7, 8, 9])
SPLITS = {"trainNdxs": np.array(TRAIN)[:, None], "testNdxs": np.array(TEST)[:, None]}


@pytest.fixture
def folder(tmp_path):
    write_mat73(tmp_path / "nyu_depth_v2_labeled.mat", pictures())
    scipy.io.savemat(tmp_path / "splits.mat", SPLITS)
    scipy.io.savemat(tmp_path / "classMapping40.mat", {"mapClass": CLASS_OF[None]})
    return tmp_path


@pytest.mark.parametrize("write", [scipy.io.savemat, write_mat73])
def test_examples_are_upright_and_of_their_split(folder, write):
    write(folder / "splits.mat", SPLITS)
    write(folder / "classMapping40.mat", {"mapClass": CLASS_OF[None]})
    expected = pictures()
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        source = NYUv2(folder, split)
        assert len(source) == len(numbers)
        for id_, number in enumerate(numbers):
            example = source[id_]
            own = {name: array[..., number - 1] for name, array in expected.items()}
            np.testing.assert_array_equal(example["rgb"], own["images"])
            np.testing.assert_array_equal(example["depth"], own["depths"])
            for y, x in np.ndindex(HEIGHT, WIDTH):
                label = own["labels"][y, x]
                known = CLASS_OF[label - 1] - 1 if label else 255
                assert example["semantics"][y, x] == known
        assert check(source) == len(numbers)
    batch = source.pool().take(np.array([1, 0]))
    assert batch["rgb"].shape == (2, HEIGHT, WIDTH, 3)
    assert batch["rgb"].dtype == batch["semantics"].dtype == np.uint8


def test_depth_that_was_not_measured_is_nan(folder):
    arrays = pictures()
    arrays["depths"][2, 3, 0] = 0
    write_mat73(folder / "nyu_depth_v2_labeled.mat", arrays)
    depth = NYUv2(folder)[0]["depth"]
    assert np.argwhere(np.isnan(depth)).tolist() == [[2, 3]]


def change_pictures(folder, **changes):
    arrays = pictures() | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    write_mat73(folder / "nyu_depth_v2_labeled.mat", arrays)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


LABELED = "nyu_depth_v2_labeled.mat"


@pytest.mark.parametrize(
    ("damage", "file", "problem"),
    [
        (lambda f: truncate(f / LABELED), LABELED, "cannot be opened"),
        (lambda f: (f / LABELED).unlink(), LABELED, "missing"),
        (lambda f: (f / "splits.mat").unlink(), "splits.mat", "missing"),
        (lambda f: truncate(f / "splits.mat"), "splits.mat", "cannot be read|has no"),
        (lambda f: change_pictures(f, depths=None), LABELED, "has no depths"),
        (lambda f: change_pictures(f, depths=np.ones((6, 8, 4))),
         LABELED, "belong together"),
        (lambda f: change_pictures(f, labels=np.full((6, 8, 5), 10, np.uint16)),
         LABELED, "picture 1 has the label 10"),
        (lambda f: change_pictures(f, depths=np.zeros((6, 8, 5), np.float32)),
         LABELED, "picture 1 has no depth"),
        (lambda f: scipy.io.savemat(f / "splits.mat", SPLITS | {"trainNdxs": [6]}),
         "splits.mat", "1 to 5"),
        (lambda f: scipy.io.savemat(f / "splits.mat", SPLITS | {"trainNdxs": [3]}),
         "splits.mat", "listed twice"),
        (lambda f: scipy.io.savemat(f / "splits.mat", {"trainNdxs": [1]}),
         "splits.mat", "has no testNdxs"),
        (lambda f: scipy.io.savemat(f / "classMapping40.mat", {"mapClass": [1, 41]}),
         "classMapping40.mat", "classes 1 to 41"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_before_training(folder, damage, file, problem):
    damage(folder)
    with pytest.raises(DataError, match=problem) as error:
        check(NYUv2(folder))
    assert str(folder / file) in str(error.value)


def test_a_picture_that_cannot_be_read_is_named(folder):
    path = folder / LABELED
    with h5py.File(path) as file:
        images = file["images"]
        assert isinstance(images, h5py.Dataset)
        _, picture_4 = images.id.read_direct_chunk((3, 0, 0, 0))
    content = path.read_bytes()
    assert content.count(picture_4) == 1
    path.write_bytes(content.replace(picture_4, bytes(len(picture_4))))
    with pytest.raises(DataError, match="picture 4 cannot be read"):
        check(NYUv2(folder))


def test_other_splits_are_refused(folder):
    with pytest.raises(ValueError, match="split must be one of train, test"):
        NYUv2(folder, "validation")
