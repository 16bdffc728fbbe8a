"""How well masked patches are reconstructed, by example and by modality."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from attent_jax._checks import check_count, check_number, check_rng
from attent_jax._factories import described
from attent_jax.models._masking import TokenMask, dirichlet_masks, example_rngs
from attent_jax.models._modalities import (
    Modality,
    is_valid,
    patchify,
    prepare_inputs,
)
from attent_jax.models._multimae import MultiMAE
from attent_jax.scores import masked_mean

_VISIBLE_SHARE = 6  # of the tokens, one in so many: the paper's 98 of 588


def normalize_patches(
    patches: Float[Array, "batch patches values"],
) -> Float[Array, "batch patches values"]:
    """Patches of mean 0 and variance 1, each by its own; NaN where there is no value.

    The mean and the variance are those of the patch's finite values, of all channels
    together.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> patches = jnp.array([[[1.0, 3.0, jnp.nan]]])
      >>> attent_jax.models.normalize_patches(patches).tolist()
      [[[-0.9999995231628418, 0.9999995231628418, nan]]]
    """
    mean, spread = patch_moments(patches)
    return jnp.where(jnp.isfinite(patches), (patches - mean) / spread, jnp.nan)


def patch_moments(patches: Float[Array, "batch patches values"]) -> tuple[Array, Array]:
    """The mean and the standard deviation of each patch's finite values.

    Both `[batch, patches, 1]`, the deviation at least 0.001.
    """
    is_finite = jnp.isfinite(patches)
    count = jnp.maximum(jnp.sum(is_finite, axis=-1, keepdims=True), 1)

    def mean(values):
        kept = jnp.where(is_finite, values, 0)
        return jnp.sum(kept, axis=-1, keepdims=True) / count.astype(patches.dtype)

    centre = mean(patches)
    return centre, jnp.sqrt(mean((patches - centre) ** 2) + 1e-6)


def reconstruction_losses(
    modalities: Sequence[Modality],
    outputs: Mapping[str, Float[Array, "batch patches outputs"]],
    inputs: Mapping[str, Array],
    mask: TokenMask,
) -> tuple[dict[str, Float[Array, "batch"]], dict[str, Array]]:
    """Each example's loss in each modality: the mean over its masked values.

    "normalized_mse" is the squared error to patches of mean 0 and variance 1,
    "standardized_l1" the absolute error to standardized depth, "cross_entropy" that of
    the labels. Values that are missing do not count.

    Args:
      modalities: all that the mask is of, in its order.
      outputs: of `MultiMAE`, by modality.
      inputs: of `prepare_inputs`.
      mask: the tokens that were visible.

    Returns:
      `(losses, has_loss)`, by modality `[batch]`: the mean, and whether there is any
      masked value. Without one the loss is 0.
    """
    losses, has_loss, start = {}, {}, 0
    for modality in modalities:
        targets = patchify(modality, inputs[modality.name])
        num_patches = targets.shape[1]
        is_masked = ~mask.is_visible[:, start : start + num_patches]
        counts = is_masked[..., None] & is_valid(modality, targets)
        start += num_patches
        errors = _errors(modality, outputs[modality.name], targets, counts)
        losses[modality.name] = masked_mean(errors, counts)
        has_loss[modality.name] = jnp.any(counts, axis=(1, 2))
    return losses, has_loss


def _errors(modality: Modality, outputs: Array, targets: Array, counts: Array) -> Array:
    """`[batch, patches, values]`; finite with a finite gradient where none counts."""
    if modality.loss == "cross_entropy":
        logits = outputs.reshape(*targets.shape, modality.num_channels)
        labels = jnp.where(counts, targets, 0)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if modality.loss == "normalized_mse":
        targets = normalize_patches(targets)
    errors = outputs - jnp.where(counts, targets, 0)
    return jnp.abs(errors) if modality.loss == "standardized_l1" else errors**2


@described
def multimae_loss(
    model: MultiMAE,
    *,
    num_visible: int | None = None,
    alpha: float = 1.0,
    mask_seed: int = 0,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """The sum over modalities of each example's reconstruction loss.

    The batch holds the maps by modality and the examples' ids as "id", `[batch]`
    integers. An example's mask depends on a key and its id alone, not on its place in
    the batch. With a key, masks are drawn from it, and the encoder skips branches.
    Without (`rng=None`), masks are drawn from `mask_seed`: every example has a fixed
    mask, so scores of different passes compare. To average several masks, average
    losses made with different seeds; for a cheap score, make one with fewer visible
    tokens.

    With `model.balance_tasks` the loss is Σ exp(−s) L + s over the modalities in which
    the example has a masked value, s the learned log-variance of each.

    Depth is standardized by all of its values, as in the published code: the encoder
    gets two numbers by example that are not of its visible patches alone.

    Args:
      model: the autoencoder.
      num_visible: visible tokens of each example. None: a sixth of all, as in the
        paper.
      alpha: the concentration of the modalities' shares; see `dirichlet_masks`.
      mask_seed: of the masks without a key.
      has_aux: whether to return each modality's loss too.

    Returns:
      `(params, rng, batch) -> [batch]`, or with `has_aux` `-> ([batch], {modality:
      [batch]})`. An example without a masked value in any modality has loss 0.

    Raises:
      TypeError, ValueError: if num_visible, alpha or mask_seed is out of range. From
        the function: as `prepare_inputs` and `dirichlet_masks`.
      KeyError: from the function, if the batch lacks a modality or "id".

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> model = attent_jax.models.MultiMAE.tiny(num_classes=5)
      >>> batch = attent_jax.models.blank_inputs(model.encoder.modalities, 8)
      >>> params = jax.eval_shape(model.init, jax.random.key(0), batch)
      >>> loss_fn = attent_jax.models.multimae_loss(model, num_visible=3)
      >>> batch["id"] = jnp.array([7])
      >>> jax.eval_shape(loss_fn, params, None, batch).shape
      (1,)

    Reference: Bachmann et al., MultiMAE (ECCV 2022), section 3.3; Kendall et al.,
    Multi-Task Learning Using Uncertainty to Weigh Losses (CVPR 2018), eq. 10.
    """
    modalities = model.encoder.modalities
    if num_visible is not None:
        num_visible = check_count("num_visible", num_visible)
    alpha = check_number("alpha", alpha, low=0, low_excluded=True)
    mask_seed = check_count("mask_seed", mask_seed, minimum=0)

    def loss_fn(params, rng, batch):
        """`(params, rng, batch) -> [batch]`, the loss over masked patches."""
        if "id" not in batch:
            raise KeyError(
                f"the batch has no 'id', only {sorted(batch)}: add each example's "
                f"stable id, an integer, from which its mask is drawn."
            )
        check_rng("rng", rng, optional=True)
        train = rng is not None
        mask_rng, drop_rng = jax.random.split(
            rng if train else jax.random.key(mask_seed)
        )
        inputs = prepare_inputs(modalities, batch)
        num_tokens = tuple(model.encoder.num_tokens(inputs).values())
        mask = dirichlet_masks(
            example_rngs(mask_rng, batch["id"]),
            num_tokens,
            num_visible or max(1, sum(num_tokens) // _VISIBLE_SHARE),
            alpha,
        )
        rngs = {"dropout": drop_rng} if train else None
        outputs: Any = model.apply(params, inputs, mask, train=train, rngs=rngs)
        losses, has_loss = reconstruction_losses(modalities, outputs, inputs, mask)
        total = jnp.zeros(len(batch["id"]))
        for number, (name, task_losses) in enumerate(losses.items()):
            if model.balance_tasks:
                log_variance = params["params"]["log_variances"][number]
                weighed = jnp.exp(-log_variance) * task_losses + log_variance
                total += jnp.where(has_loss[name], weighed, 0)
            else:
                total += task_losses
        return (total, losses) if has_aux else total

    return loss_fn
