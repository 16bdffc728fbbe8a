"""ImageNet-S (50, 300 or 919 classes) with pseudo-labels for depth and semantics.

The layout is that of ImageNet-S, with a folder for each pseudo-label:

    ROOT/train/n01443537/n01443537_2.JPEG
    ROOT/validation/…
    ROOT/depth/train/n01443537/n01443537_2.png        16 bits; 0: no depth
    ROOT/semantics/train/n01443537/n01443537_2.png     8 bits; 255: no class

Pseudo-labels are as large as their picture.

Reference: Gao et al., Large-scale Unsupervised Semantic Segmentation (TPAMI 2022).
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from attent_jax.data import SourcePool
from experiments.multimae.reading import DataError, check_labels

_IMAGES = {".jpeg", ".jpg", ".png"}


class ImageNetS:
    """The examples of one split, read when they are asked for.

    An example is {"rgb": uint8 `[size, size, 3]`, "depth": float32 `[size, size]`,
    "semantics": uint8 `[size, size]`, "label": int32 `[]`, "aspect": float32 `[]`}. The
    whole picture is in it, squeezed to a square; `cropping` takes parts of it in their
    true shape, by its aspect: the picture's width over its height. Depth is NaN where
    there is none.

    Args:
      root: the data set's folder.
      split: "train" or "validation".
      size: height and width of the examples; somewhat more than that of the crops.
      num_semantic_classes: of the pseudo-labels; 133 are COCO's.
      depth_unit: what 1 in a depth file stands for. Pre-training standardizes depth,
        so that any unit will do.

    Raises:
      DataError: if a folder is missing or has no pictures.

    Example:
      pool = ImageNetS("/data/imagenet-s50").pool()
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        *,
        size: int = 320,
        num_semantic_classes: int = 133,
        depth_unit: float = 1 / 65535,
    ):
        self.root, self.split, self.size = Path(root), split, size
        self.num_semantic_classes = num_semantic_classes
        self.depth_unit = depth_unit
        self.classes = tuple(path.name for path in _folders(self.root / "train"))
        """The WordNet ids; an example's label is an index into them."""
        self._paths = []
        for folder in _folders(self.root / split):
            if folder.name not in self.classes:
                raise DataError(
                    f"{folder}: this class is not among those of {self.root / 'train'}:"
                    f" remove the folder, or complete the training data."
                )
            files = (path for path in folder.iterdir() if path.is_file())
            self._paths += sorted(p for p in files if p.suffix.lower() in _IMAGES)
        if not self._paths:
            raise DataError(
                f"{self.root / split}: no class folder holds a picture (*.JPEG): pass "
                f"the folder that holds train/ and validation/."
            )

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, id_: int) -> Path:
        """The picture's file."""
        return self._paths[id_]

    def pool(self, *, num_threads: int = 8) -> SourcePool:
        """The pool of these examples.

        Args:
          num_threads: how many threads of grain read batches ahead of their use.
        """
        return SourcePool(self, num_threads=num_threads)

    def __getitem__(self, id_: int) -> dict[str, Any]:
        path = self._paths[id_]
        image = _read(path).convert("RGB")
        depth, semantics = (
            _read(self._label_path(name, path), image.size)
            for name in ("depth", "semantics")
        )
        return {
            "rgb": np.asarray(
                image.resize((self.size, self.size), Image.Resampling.BICUBIC)
            ),
            "depth": self._depth(depth, self._label_path("depth", path)),
            "semantics": self._semantics(
                semantics, self._label_path("semantics", path)
            ),
            "label": np.int32(self.classes.index(path.parent.name)),
            "aspect": np.float32(image.width / image.height),
        }

    def _label_path(self, name: str, path: Path) -> Path:
        relative = path.relative_to(self.root).with_suffix(".png")
        return self.root / name / relative

    def _depth(self, image: Image.Image, path: Path) -> Float[np.ndarray, "size size"]:
        if not image.mode.startswith("I"):
            raise DataError(
                f"{path}: depth must have 16 bits, but the picture's mode is "
                f"{image.mode}: save it as a 16-bit greyscale PNG."
            )
        values = _nearest(np.asarray(image), self.size).astype(np.float32)
        return np.where(values > 0, values * np.float32(self.depth_unit), np.nan)

    def _semantics(
        self, image: Image.Image, path: Path
    ) -> UInt8[np.ndarray, "size size"]:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{path}: semantics must have 8 bits, but the picture's mode is "
                f"{image.mode}: save it as an 8-bit greyscale PNG."
            )
        labels = np.asarray(image)
        check_labels(labels, self.num_semantic_classes, path)
        return _nearest(labels, self.size)


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(
            f"{path}: there is no such folder: pass the folder that holds train/ and "
            f"validation/."
        )
    return sorted(folder for folder in path.iterdir() if folder.is_dir())


def _read(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise DataError(f"{path}: the file is missing: add it.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path}: the picture cannot be read ({error}): copy or write it again."
        ) from error
    if size is not None and image.size != size:
        raise DataError(
            f"{path}: it has {image.width} × {image.height} pixels, its picture "
            f"{size[0]} × {size[1]}: write it again, as large as its picture."
        )
    return image


def _nearest(values: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (
        ((np.arange(size) + 0.5) * count / size).astype(int) for count in values.shape
    )
    return values[np.ix_(rows, columns)]
