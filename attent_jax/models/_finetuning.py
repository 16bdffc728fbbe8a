"""From pre-trained parameters to a fine-tuned model: loading, rates, mixing, a loss."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from attent_jax._checks import check_count, check_number
from attent_jax.scores import masked_mean
from attent_jax.typing import Params

_BLOCK = re.compile(r"(?:^|/)encoder/Block_(\d+)/")
_STEM = re.compile(r"(?:^|/)encoder/(?!LayerNorm)")
_ADAPTER = re.compile(r"_(?:patches|classes)/")
_MOST_NAMED = 4


def load_encoder(params: Params, pretrained: Params) -> Params:
    """Take the encoder's parameters from a pre-trained model.

    Args:
      params: of the new model, whose module `encoder` is a `MultiModalEncoder`.
      pretrained: of a `MultiMAE`, or another model with such an encoder. It may know
        more modalities.

    Returns:
      `params` with the encoder of `pretrained`, in the types of `params`.

    Raises:
      ValueError: if a model has no encoder, the new one has parameters that the
        pre-trained one has not or has in another shape, or the pre-trained one has
        more blocks.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> def model(value, **head):
      ...     return {"params": {"encoder": {"global_tokens": jnp.full((1, 2), value)},
      ...                        **head}}
      >>> loaded = attent_jax.models.load_encoder(
      ...     model(0.0, head=jnp.ones(3)), model(7.0))
      >>> loaded["params"]["encoder"]["global_tokens"].tolist()
      [[7.0, 7.0]]
    """
    new, old = (
        _encoder_of(name, tree)
        for name, tree in (("params", params), ("pretrained", pretrained))
    )
    missing = sorted(new.keys() - old.keys())
    if missing:
        raise ValueError(
            f"pretrained has no encoder parameter {_listing(missing)}: the new model "
            f"needs the encoder that was trained, with no other modalities and no more "
            f"blocks."
        )
    unused = sorted(n for n in old.keys() - new.keys() if not _ADAPTER.search(n))
    if unused:
        raise ValueError(
            f"params has no place for the encoder parameter {_listing(unused)} of "
            f"pretrained: the new model needs the encoder that was trained."
        )
    for name, leaf in new.items():
        if np.shape(leaf) != np.shape(old[name]):
            raise ValueError(
                f"the encoder parameter {name!r} has shape {np.shape(leaf)} in params "
                f"and {np.shape(old[name])} in pretrained: build the new model with "
                f"the encoder that was trained."
            )
    encoder = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(old[_name(path)], leaf.dtype),
        params["params"]["encoder"],
    )
    return {**params, "params": {**params["params"], "encoder": encoder}}


def _encoder_of(name: str, params: Params) -> dict[str, Array]:
    try:
        encoder = params["params"]["encoder"]
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f'{name} has no encoder: {name}["params"]["encoder"] must be the '
            f"parameters of a MultiModalEncoder; pass what model.init returns."
        ) from None
    leaves = jax.tree_util.tree_leaves_with_path(encoder)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _listing(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMED
    shown = ", ".join(map(repr, names[:_MOST_NAMED]))
    return shown + (f" and {rest} more" if rest > 0 else "")


def layer_decay(num_layers: int, decay: float) -> Callable[[str], float]:
    """A learning rate's scale for each parameter: the earlier its layer, the smaller.

    Args:
      num_layers: blocks of the encoder.
      decay: the factor from a layer to the one before it, in (0, 1].

    Returns:
      `(path) -> scale`, of a parameter's path such as "params/encoder/Block_0/...":
      decay^(num_layers − i) for block i, decay^(num_layers + 1) for what comes before
      the blocks, 1 for all else. For `scale_by_path`.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Example:
      >>> import attent_jax
      >>> scale = attent_jax.models.layer_decay(2, 0.5)
      >>> scale("params/encoder/rgb_patches/kernel"), scale("params/head/kernel")
      (0.125, 1.0)
      >>> scale("params/encoder/Block_1/Dense_0/kernel")
      0.5

    Reference: Clark et al., ELECTRA (ICLR 2020); Bao et al., BEiT (ICLR 2022).
    """
    num_layers = check_count("num_layers", num_layers)
    decay = check_number("decay", decay, low=0, high=1, low_excluded=True)

    def scale(path: str) -> float:
        if block := _BLOCK.search(path):
            return decay ** (num_layers - int(block[1]))
        return decay ** (num_layers + 1) if _STEM.search(path) else 1.0

    return scale


def scale_by_path(scale_fn: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiply each parameter's update by a number that depends on its path.

    Chain it after an optimizer, so that it scales the learning rate and decoupled
    weight decay.

    Args:
      scale_fn: `(path) -> scale`, the path's keys joined by slashes.

    Example:
      >>> import jax.numpy as jnp, optax, attent_jax
      >>> optimizer = optax.chain(
      ...     optax.sgd(1.0),
      ...     attent_jax.models.scale_by_path(
      ...         lambda path: 0.1 if path.startswith("body") else 1.0))
      >>> params = {"body": jnp.ones(1), "head": jnp.ones(1)}
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
      >>> updates["body"].tolist(), updates["head"].tolist()
      ([-0.10000000149011612], [-1.0])
    """

    def update(updates, params=None):
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * jnp.asarray(scale_fn(_name(path)), leaf.dtype),
            updates,
        )

    return optax.stateless(update)


def mixup(
    rng: jax.Array,
    images: Float[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    *,
    alpha: float = 0.8,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
    """Blend each example with another one of the batch, image and target alike.

    Args:
      rng: for the partners and the shares.
      images: any values.
      targets: probabilities of the classes.
      alpha: the share λ of an example is drawn from Beta(alpha, alpha), for each.

    Returns:
      λ x + (1 − λ) x' of images and of targets.

    Raises:
      TypeError, ValueError: if alpha is not a positive number.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> images, targets = attent_jax.models.mixup(
      ...     jax.random.key(0), jnp.ones((2, 4, 4, 3)), jnp.eye(2))
      >>> images.shape, targets.sum(axis=1).round(3).tolist()
      ((2, 4, 4, 3), [1.0, 1.0])

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization (ICLR 2018).
    """
    alpha = check_number("alpha", alpha, low=0, low_excluded=True)
    share_rng, partner_rng = jax.random.split(rng)
    shares = jax.random.beta(share_rng, alpha, alpha, (len(images),))
    partners = jax.random.permutation(partner_rng, len(images))
    return (
        _blend(images, partners, shares[:, None, None, None]),
        _blend(targets, partners, shares[:, None]),
    )


def cutmix(
    rng: jax.Array,
    images: Float[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    *,
    alpha: float = 1.0,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
    """Replace a box of each image by that of another one, and its share of the target.

    Args:
      rng: for the partners and the boxes.
      images: any values.
      targets: probabilities of the classes.
      alpha: the area outside of a box is drawn from Beta(alpha, alpha), for each
        example; the box's centre is uniform, and what is beyond the border is cut.

    Returns:
      The images, and the targets blended by the areas that are seen.

    Raises:
      TypeError, ValueError: if alpha is not a positive number.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> images, targets = attent_jax.models.cutmix(
      ...     jax.random.key(0), jnp.ones((2, 4, 4, 3)), jnp.eye(2))
      >>> images.shape, targets.sum(axis=1).round(3).tolist()
      ((2, 4, 4, 3), [1.0, 1.0])

    Reference: Yun et al., CutMix (ICCV 2019).
    """
    alpha = check_number("alpha", alpha, low=0, low_excluded=True)
    share_rng, partner_rng, *centre_rngs = jax.random.split(rng, 4)
    num_examples, height, width, _ = images.shape
    sides = jnp.sqrt(1 - jax.random.beta(share_rng, alpha, alpha, (num_examples,)))

    def inside(centre_rng, length) -> Bool[Array, "batch length"]:
        centres = jax.random.uniform(centre_rng, (num_examples,), maxval=length)
        offsets = np.arange(length, dtype=np.float32)[None] + 0.5 - centres[:, None]
        return jnp.abs(offsets) < sides[:, None] * length / 2

    in_rows, in_columns = (
        inside(centre_rng, length)
        for centre_rng, length in zip(centre_rngs, (height, width), strict=True)
    )
    is_outside = ~(in_rows[:, :, None] & in_columns[:, None, :])
    kept = is_outside.astype(images.dtype)
    partners = jax.random.permutation(partner_rng, num_examples)
    return (
        jnp.where(is_outside[..., None], images, images[partners]),
        _blend(targets, partners, jnp.mean(kept, axis=(1, 2))[:, None]),
    )


def _blend(values: Array, partners: Array, shares: Array) -> Array:
    shares = shares.astype(values.dtype)
    return shares * values + (1 - shares) * values[partners]


def berhu(
    predictions: Float[Array, "batch ..."], targets: Float[Array, "batch ..."]
) -> Float[Array, "batch"]:
    """The reverse Huber loss: absolute where the error is small, squared where large.

    With e the error and c a fifth of the example's largest one: |e| up to c, and
    (e² + c²) / 2c beyond.

    Args:
      predictions: of depth.
      targets: the same shape; missing where not finite.

    Returns:
      `[batch]` the mean over each example's values that are there.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> attent_jax.models.berhu(
      ...     jnp.array([[1.0, 10.0, 5.0]]), jnp.array([[0.0, 0.0, jnp.nan]])).tolist()
      [13.5]

    Reference: Laina et al., Deeper Depth Prediction with Fully Convolutional Residual
    Networks (3DV 2016), eq. 2, with c of each example in place of the batch.
    """
    is_there = jnp.isfinite(targets)
    errors = jnp.abs(predictions - jnp.where(is_there, targets, 0))
    errors = jnp.where(is_there, errors, 0)
    values = tuple(range(1, errors.ndim))
    bound = jax.lax.stop_gradient(jnp.max(errors, axis=values, keepdims=True)) / 5
    bound = jnp.where(bound > 0, bound, 1)
    losses = jnp.where(errors <= bound, errors, (errors**2 + bound**2) / (2 * bound))
    return masked_mean(losses, is_there)
