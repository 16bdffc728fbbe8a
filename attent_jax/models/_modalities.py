"""Kinds of pictures of a scene, and how each is cut into patches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from attent_jax._checks import check_count

Reconstruction = Literal["normalized_mse", "standardized_l1", "cross_entropy"]
Maps = Float[Array, "batch height width channels"] | Int[Array, "batch height width"]
"""Maps of one modality, as a model takes them: values or labels."""
RawMaps = (
    Float[Array | np.ndarray, "batch height width *channels"]
    | Integer[Array | np.ndarray, "batch height width *channels"]
)
_LOW, _HIGH = 1, 9  # tenths: the quantiles between which depth is averaged


@dataclass(frozen=True)
class Modality:
    """One kind of picture: what its values are, and how it is cut into tokens.

    `Modality.rgb`, `Modality.depth` and `Modality.semantics` make the three of the
    paper.

    Example:
      >>> import attent_jax
      >>> labels = attent_jax.models.Modality.semantics(num_classes=40)
      >>> labels.patch_side, labels.num_outputs
      (4, 640)
    """

    name: str
    """Its key in a batch."""
    loss: Reconstruction
    """How its reconstruction is judged; see `multimae_loss`."""
    num_channels: int = 1
    """Of the values; of labels, the number of classes."""
    patch_size: int = 16
    """The side of a patch, in pixels of the image."""
    stride: int = 1
    """Pixels of the image for each of the map, along each axis."""

    def __post_init__(self):
        for name in ("num_channels", "patch_size", "stride"):
            check_count(f"{self.name}: {name}", getattr(self, name))
        if self.patch_size % self.stride:
            raise ValueError(
                f"{self.name}: stride={self.stride} does not divide patch_size="
                f"{self.patch_size}: a patch needs whole entries of the map; choose a "
                f"divisor."
            )

    @classmethod
    def rgb(cls, patch_size: int = 16) -> "Modality":
        """Colour images, `[batch, height, width, 3]`, reconstructed by patch."""
        return cls("rgb", "normalized_mse", 3, patch_size)

    @classmethod
    def depth(cls, patch_size: int = 16) -> "Modality":
        """Depth maps, `[batch, height, width]`; NaN where there is no measurement."""
        return cls("depth", "standardized_l1", 1, patch_size)

    @classmethod
    def semantics(
        cls, num_classes: int, patch_size: int = 16, stride: int = 4
    ) -> "Modality":
        """Class labels, `[batch, height / stride, width / stride]`.

        Labels outside [0, num_classes), such as 255, mean that a pixel has none.
        """
        return cls("semantics", "cross_entropy", num_classes, patch_size, stride)

    @property
    def has_labels(self) -> bool:
        """Whether its maps are class labels."""
        return self.loss == "cross_entropy"

    @property
    def patch_side(self) -> int:
        """The side of a patch, in entries of the map."""
        return self.patch_size // self.stride

    @property
    def num_outputs(self) -> int:
        """Outputs of a decoder for each patch."""
        return self.patch_side**2 * self.num_channels

    def grid(self, maps: Array | np.ndarray) -> tuple[int, int]:
        """Patches along height and width.

        Raises:
          ValueError: if the maps do not divide into patches.
        """
        height, width = maps.shape[1:3]
        if height % self.patch_side or width % self.patch_side:
            raise ValueError(
                f"{self.name}: maps of {height} × {width} do not divide into patches "
                f"of {self.patch_side} × {self.patch_side}: resize them, or change "
                f"patch_size or stride."
            )
        return height // self.patch_side, width // self.patch_side


def patchify(modality: Modality, maps: Maps) -> Array:
    """Cut maps into patches.

    Args:
      modality: how.
      maps: `[batch, height, width, channels]`, or labels `[batch, height, width]`.

    Returns:
      `[batch, patches, values]`, the patches and the values of each row by row, the
      channels last.
    """
    rows, columns = modality.grid(maps)
    side = modality.patch_side
    split = maps.reshape(maps.shape[0], rows, side, columns, side, -1)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(
        maps.shape[0], rows * columns, side * side * split.shape[-1]
    )


def unpatchify(
    modality: Modality,
    patches: Array,
    grid: tuple[int, int],
) -> Array:
    """Join patches to maps, the inverse of `patchify`.

    Args:
      modality: how.
      patches: `[batch, patches, values]`.
      grid: patches along height and width, from `modality.grid`.

    Returns:
      `[batch, height, width, channels]`; labels have one channel.
    """
    (rows, columns), side = grid, modality.patch_side
    split = patches.reshape(patches.shape[0], rows, columns, side, side, -1)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(
        patches.shape[0], rows * side, columns * side, split.shape[-1]
    )


def standardize_depth(
    depth: Float[Array | np.ndarray, "batch height width *channels"],
) -> Float[Array, "batch height width *channels"]:
    """Depth minus a robust mean, over a robust standard deviation, by example.

    Both are those of the values between the quantiles 0.1 and 0.9, so that a few far
    or wrong measurements do not set the scale.

    Args:
      depth: in any unit; NaN or infinite where there is no measurement.

    Returns:
      The same shape, without a unit; NaN where there is no measurement.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> depth = jnp.arange(20.0).reshape(1, 4, 5).at[0, 3, 4].set(1e6)
      >>> scaled = attent_jax.models.standardize_depth(depth)
      >>> [round(float(value), 2) for value in scaled[0, 0, :3]]
      [-2.06, -1.84, -1.63]

    Reference: Bachmann et al., MultiMAE (ECCV 2022), section 3.3; its code truncates at
    these quantiles.
    """
    depth = jnp.asarray(depth)
    depth = depth.astype(jnp.promote_types(depth.dtype, jnp.float32))
    flat = depth.reshape(depth.shape[0], -1)
    flat = jnp.where(jnp.isfinite(flat), flat, jnp.nan)
    ordered = jnp.sort(flat, axis=1)  # NaN last
    num_valid = jnp.sum(~jnp.isnan(flat), axis=1, keepdims=True)
    rank = np.arange(flat.shape[1])[None]
    low = _LOW * num_valid // 10
    high = jnp.maximum(_HIGH * num_valid // 10, low + 1)
    is_kept = (low <= rank) & (rank < high) & (rank < num_valid)
    count = jnp.maximum(jnp.sum(is_kept, axis=1, keepdims=True), 1).astype(flat.dtype)

    def mean(values):
        kept = jnp.where(is_kept, values, 0)
        return jnp.sum(kept, axis=1, keepdims=True) / count

    centre = mean(ordered)
    spread = jnp.sqrt(mean((ordered - centre) ** 2) + 1e-6)
    return ((flat - centre) / spread).reshape(depth.shape)


def prepare_inputs(
    modalities: Sequence[Modality], batch: Mapping[str, RawMaps]
) -> dict[str, Array]:
    """The maps of a batch as a model takes them.

    Args:
      modalities: which to take.
      batch: maps by modality. Images of type uint8 are scaled to [−1, 1]; floating
        point is taken as it is. Depth is standardized by example. Labels may be of
        any integer type, at their stride, or of the size of the other images: one of
        each stride × stride of them is then taken.

    Returns:
      By name, `[batch, height, width, channels]` of float32, or labels
      `[batch, height, width]` of int32. What is not finite is missing.

    Raises:
      KeyError: if a modality is not in the batch.
      TypeError: if a modality's values are of another kind.
      ValueError: if maps do not divide into patches, have another number of channels,
        or are of images of different sizes.

    Example:
      >>> import numpy as np, attent_jax
      >>> batch = {"rgb": np.full((1, 16, 16, 3), 255, np.uint8)}
      >>> inputs = attent_jax.models.prepare_inputs(
      ...     [attent_jax.models.Modality.rgb()], batch)
      >>> inputs["rgb"].shape, float(inputs["rgb"].max())
      ((1, 16, 16, 3), 1.0)
    """
    inputs = {}
    for modality in modalities:
        if modality.name not in batch:
            raise KeyError(
                f"the batch has no {modality.name!r}, only {sorted(batch)}: add it, or "
                f"leave the modality out."
            )
        inputs[modality.name] = _prepared(modality, jnp.asarray(batch[modality.name]))
    sizes = {inputs[m.name].shape[1:3] for m in modalities if m.stride == 1}
    for modality in modalities:
        labels, step = inputs[modality.name], modality.stride
        if modality.has_labels and step > 1 and labels.shape[1:3] in sizes:
            labels = labels[:, step // 2 :: step, step // 2 :: step]
            inputs[modality.name] = labels
    check_inputs(modalities, inputs)
    return inputs


def _prepared(modality: Modality, maps: Array) -> Array:
    is_integer = jnp.issubdtype(maps.dtype, jnp.integer)
    if modality.has_labels:
        if not is_integer:
            raise TypeError(
                f"{modality.name}: labels must be integers, got {maps.dtype}: convert "
                f"them."
            )
        return maps.astype(jnp.int32)
    if maps.dtype == jnp.uint8 and modality.loss == "normalized_mse":
        maps = maps.astype(jnp.float32) / 127.5 - 1
    elif is_integer:
        raise TypeError(
            f"{modality.name}: values must be floating point, got {maps.dtype}: "
            f"convert them to their unit."
        )
    maps = maps.astype(jnp.float32)
    maps = maps[..., None] if maps.ndim == 3 else maps
    return standardize_depth(maps) if modality.loss == "standardized_l1" else maps


def check_inputs(modalities: Sequence[Modality], inputs: Mapping[str, Array]) -> None:
    """Refuse maps of a wrong shape, and maps of images of different sizes."""
    sizes = {}
    for modality in modalities:
        maps = inputs[modality.name]
        expected = 3 if modality.has_labels else 4
        if maps.ndim != expected:
            raise ValueError(
                f"{modality.name}: maps of shape {maps.shape} must have {expected} "
                f"axes: (batch, height, width"
                f"{')' if modality.has_labels else ', channels)'}."
            )
        if not modality.has_labels and maps.shape[-1] != modality.num_channels:
            raise ValueError(
                f"{modality.name}: maps have {maps.shape[-1]} channels, not "
                f"{modality.num_channels}: pass others, or change num_channels."
            )
        modality.grid(maps)
        sizes[modality.name] = tuple(n * modality.stride for n in maps.shape[1:3])
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"the modalities show images of different sizes, {sizes} pixels: a "
            f"modality of stride s takes maps of 1/s of the image's height and width."
        )


def blank_inputs(
    modalities: Sequence[Modality], height: int, width: int | None = None
) -> dict[str, Array]:
    """Inputs of one example, all zeros: to initialize a model with.

    Args:
      modalities: which.
      height: of the image, in pixels.
      width: None: the height.

    Example:
      >>> import attent_jax
      >>> inputs = attent_jax.models.blank_inputs(
      ...     [attent_jax.models.Modality.semantics(num_classes=40)], 32)
      >>> inputs["semantics"].shape
      (1, 8, 8)
    """
    width = height if width is None else width

    def zeros(modality: Modality) -> Array:
        shape = (1, height // modality.stride, width // modality.stride)
        if modality.has_labels:
            return jnp.zeros(shape, jnp.int32)
        return jnp.zeros((*shape, modality.num_channels))

    return {modality.name: zeros(modality) for modality in modalities}


def is_valid(modality: Modality, patches: Array) -> Bool[Array, "batch patches values"]:
    """Which values of patches are there: finite, or labels of a class."""
    if modality.has_labels:
        return (patches >= 0) & (patches < modality.num_channels)
    return jnp.isfinite(patches)
