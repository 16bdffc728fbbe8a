"""Tensors in safetensors files, read one by one and written shard by shard."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FLOATS = ("F32", "F16", "BF16")


class Tensor(NamedTuple):
    """A tensor in a file, not read yet."""

    name: str
    file: Any
    path: Path
    shape: tuple[int, ...]

    def read(self, index: Any) -> np.ndarray:
        """The part of it at `index`, a tuple of slices."""
        return self.file.get_slice(self.name)[index]


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model's folder by name; only the files' headers are read.

    Raises:
      FileNotFoundError: if a shard or all weights are missing.
      ValueError: if a file is damaged, weights are pickled, or not in float32, float16
        or bfloat16.
    """
    return {
        name: tensor
        for path in _shards(folder)
        for name, tensor in open_file(path).items()
    }


def open_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one file, as `open_tensors` has them."""
    try:
        # without mapping the file into memory, where the pages read would count
        file = safe_open(path, framework="np", backend="pread")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}.") from None
    tensors = {}
    for name in file.keys():  # noqa: SIM118
        header = file.get_slice(name)
        if header.get_dtype() not in _FLOATS:
            raise ValueError(
                f"{name} in {path} is {header.get_dtype()}: only float32, float16 and "
                f"bfloat16 are read."
            )
        tensors[name] = Tensor(name, file, path, tuple(header.get_shape()))
    return tensors


def _shards(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLED)
        if pickled:
            raise ValueError(
                f"{folder} has its weights pickled ({', '.join(pickled[:3])}): reading "
                f"a pickle can run any code, so only safetensors are read. Load the "
                f"model in transformers where you trust it, and save it with "
                f"`model.save_pretrained(folder)`."
            )
        raise FileNotFoundError(f"{folder} has neither {SINGLE} nor {INDEX}.")
    try:
        names = sorted(
            set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        )
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is no index: {error!r}.") from None
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{folder / INDEX} names {outside[0]!r}, outside the folder.")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}, of {len(names)} shards that {INDEX} "
            f"names: download the rest of the model."
        )
    return [folder / name for name in names]


class Pending(NamedTuple):
    """A tensor to be written, fetched when its shard is."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fetch: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def write_tensors(
    folder: Path, tensors: Iterable[Pending], *, max_shard_bytes: int
) -> None:
    """Write a model's weights; a shard at a time is in host memory."""
    shards: list[list[Pending]] = [[]]
    for tensor in tensors:
        size = sum(each.num_bytes for each in shards[-1])
        if shards[-1] and size + tensor.num_bytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        name = SINGLE if len(shards) == 1 else name
        write_file(folder / name, shard)
        weight_map |= dict.fromkeys((each.name for each in shard), name)
    if len(shards) > 1:
        total = sum(each.num_bytes for shard in shards for each in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2))


def write_file(path: Path, tensors: Iterable[Pending]) -> None:
    """Write one file, marked as transformers and PEFT want it."""
    values = {
        each.name: np.ascontiguousarray(each.fetch().astype(each.dtype))
        for each in tensors
    }
    save_file(values, path, metadata={"format": "pt"})
