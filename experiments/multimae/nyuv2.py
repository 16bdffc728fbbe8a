"""NYU Depth V2: its labelled part, with the standard split and 40 classes.

Three files, as they are published:

    nyu_depth_v2_labeled.mat    HDF5, with MATLAB's axes in reverse: images
                                [1449, 3, 640, 480], depths and labels [1449, 640, 480]
    splits.mat                  trainNdxs, testNdxs: numbers of pictures, from 1
    classMapping40.mat          mapClass: a class from 1 to 40 for each of 894 labels

Reference: Silberman et al., Indoor Segmentation and Support Inference from RGBD Images
(ECCV 2012); Gupta et al. (CVPR 2013) for the 40 classes.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from jaxtyping import Int, UInt8

from attent_jax.data import SourcePool
from experiments.multimae.reading import NO_LABEL, DataError

NUM_CLASSES = 40
_SPLITS = {"train": "trainNdxs", "test": "testNdxs"}
_MAPS = ("images", "depths", "labels")


class NYUv2:
    """The pictures of one split, read when they are asked for.

    An example is {"rgb": uint8 `[480, 640, 3]`, "depth": float32 `[480, 640]` in
    metres, "semantics": uint8 `[480, 640]`}. Depth is NaN where there is none, and the
    class of unlabelled pixels is 255. `cropping` makes views of one size.

    Args:
      folder: where the three files are.
      split: "train" (795 pictures) or "test" (654).

    Raises:
      DataError: if a file is missing, damaged, or not what it should be.

    Example:
      pool = NYUv2("/data/nyuv2", "test").pool()
    """

    def __init__(self, folder: Path | str, split: str = "train"):
        if split not in _SPLITS:
            raise ValueError(
                f"split must be one of {', '.join(_SPLITS)}, got {split!r}: choose one."
            )
        folder = Path(folder)
        self.path = folder / "nyu_depth_v2_labeled.mat"
        self._maps = _maps(self.path)
        self._lock = threading.Lock()
        self._numbers = _split(folder / "splits.mat", split, len(self._maps[0]))
        self._classes = _class_table(folder / "classMapping40.mat")

    def __len__(self) -> int:
        return len(self._numbers)

    def pool(self, *, num_threads: int = 4) -> SourcePool:
        """The pool of these pictures.

        Args:
          num_threads: how many threads of grain read batches ahead of their use.
        """
        return SourcePool(self, num_threads=num_threads)

    def __getitem__(self, id_: int) -> dict[str, Any]:
        number = int(self._numbers[id_])
        try:
            with self._lock:
                image, depth, labels = (data[number] for data in self._maps)
        except OSError as error:
            raise DataError(
                f"{self.path}: picture {number + 1} cannot be read ({error}): download "
                f"the file again."
            ) from error
        # MATLAB stores columns first, HDF5 rows first: all axes are reversed.
        image, depth, labels = image.T, depth.T, labels.T
        if labels.max() >= len(self._classes):
            raise DataError(
                f"{self.path}: picture {number + 1} has the label {labels.max()}, but "
                f"classMapping40.mat has {len(self._classes) - 1}: pass the files of "
                f"one release."
            )
        is_known = np.isfinite(depth) & (depth > 0)
        if not is_known.any():
            raise DataError(
                f"{self.path}: picture {number + 1} has no depth: download the file "
                f"again."
            )
        return {
            "rgb": np.ascontiguousarray(image),
            "depth": np.where(is_known, depth, np.nan).astype(np.float32),
            "semantics": self._classes[labels],
        }


def _maps(path: Path) -> list[h5py.Dataset]:
    """Images, depths and labels, which stay in the file."""
    if not path.is_file():
        raise DataError(f"{path}: the file is missing: add it.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be opened ({error}): download it again."
        ) from error
    found = {name: file.get(name) for name in _MAPS}
    maps = [data for data in found.values() if isinstance(data, h5py.Dataset)]
    if len(maps) < len(_MAPS):
        missing = [n for n, data in found.items() if not isinstance(data, h5py.Dataset)]
        raise DataError(
            f"{path}: it has no {', '.join(missing)}: pass the labelled part of NYU "
            f"Depth V2."
        )
    images, depths, labels = (data.shape for data in maps)
    is_color = len(images) == 4 and images[1] == 3
    if not (is_color and images[:1] + images[2:] == depths == labels):
        raise DataError(
            f"{path}: images {images}, depths {depths} and labels {labels} do not "
            f"belong together: they must be [n, 3, width, height], [n, width, height] "
            f"twice."
        )
    return maps


def _load_variables(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays of numbers from a .mat file of any version."""
    if not path.is_file():
        raise DataError(f"{path}: the file is missing: add it.")
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                found = {n: np.asarray(file[n]) for n in names if n in file}
        else:
            found = scipy.io.loadmat(path, variable_names=list(names))
    except Exception as error:  # of many types, by where the file ends
        raise DataError(
            f"{path}: the file cannot be read ({error}): download it again."
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{path}: it has no {', '.join(missing)}: download the file again."
        )
    return [np.ravel(found[name]).astype(np.int64) for name in names]


def _split(path: Path, split: str, num_pictures: int) -> Int[np.ndarray, "pictures"]:
    """The split's pictures, from 0."""
    names = tuple(_SPLITS.values())
    numbers = dict(zip(names, _load_variables(path, names), strict=True))
    together = np.concatenate(list(numbers.values()))
    if together.min() < 1 or together.max() > num_pictures:
        raise DataError(
            f"{path}: it lists pictures {together.min()} to {together.max()}, but the "
            f"labelled file has 1 to {num_pictures}: pass the files of one release."
        )
    if len(np.unique(together)) < len(together):
        raise DataError(
            f"{path}: a picture is listed twice: training and test pictures must "
            f"differ; download the file again."
        )
    return numbers[_SPLITS[split]] - 1


def _class_table(path: Path) -> UInt8[np.ndarray, "labels"]:
    """The class, from 0, of each label; label 0 is no label."""
    (classes,) = _load_variables(path, ["mapClass"])
    if classes.min() < 1 or classes.max() > NUM_CLASSES:
        raise DataError(
            f"{path}: mapClass has classes {classes.min()} to {classes.max()}, not 1 "
            f"to {NUM_CLASSES}: pass the mapping to {NUM_CLASSES} classes."
        )
    return np.concatenate([[NO_LABEL], classes - 1]).astype(np.uint8)
