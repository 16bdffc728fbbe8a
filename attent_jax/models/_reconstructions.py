"""Reconstructions as pictures."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from attent_jax.models._masking import TokenMask
from attent_jax.models._modalities import Modality, patchify, unpatchify
from attent_jax.models._multimae_loss import patch_moments


def reconstructions(
    modalities: Sequence[Modality],
    outputs: Mapping[str, Float[Array, "batch patches outputs"]],
    inputs: Mapping[str, Array],
    mask: TokenMask,
) -> dict[str, Array]:
    """Maps with the visible patches of the inputs and the masked ones of the outputs.

    A patch that was normalized for the loss gets its own mean and spread again, which
    the model does not know: such a picture shows structure, not colour.

    Args:
      modalities: all that the mask is of, in its order.
      outputs: of `MultiMAE`, by modality.
      inputs: of `prepare_inputs`.
      mask: the tokens that were visible.

    Returns:
      Maps like the inputs; labels are the most likely ones.

    Example:
      >>> import jax, attent_jax
      >>> modalities = (attent_jax.models.Modality.depth(patch_size=4),)
      >>> inputs = attent_jax.models.blank_inputs(modalities, 8)
      >>> mask = attent_jax.models.dirichlet_masks(
      ...     jax.random.split(jax.random.key(0), 1), [4], num_visible=3)
      >>> outputs = {"depth": jax.numpy.ones((1, 4, 16))}
      >>> maps = attent_jax.models.reconstructions(modalities, outputs, inputs, mask)
      >>> float(maps["depth"].sum())  # one patch is masked
      16.0
    """
    maps, start = {}, 0
    for modality in modalities:
        seen = patchify(modality, inputs[modality.name])
        made = outputs[modality.name]
        is_visible = mask.is_visible[:, start : start + seen.shape[1], None]
        start += seen.shape[1]
        if modality.has_labels:
            made = made.reshape(*seen.shape, modality.num_channels).argmax(axis=-1)
            made = made.astype(seen.dtype)
        elif modality.loss == "normalized_mse":
            mean, spread = patch_moments(seen)
            made = made * spread + mean
        grid = modality.grid(inputs[modality.name])
        joined = unpatchify(modality, jnp.where(is_visible, seen, made), grid)
        maps[modality.name] = joined[..., 0] if modality.has_labels else joined
    return maps
