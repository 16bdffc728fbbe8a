"""MultiMAE in float64 NumPy, example by example, on all tokens.

Nothing is gathered: the encoder attends from all tokens to those that are visible, by
a mask. So it is an independent check of the sparse one.
"""

import numpy as np

from attent_jax.models._multimodal_encoder import sincos_positions


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def layer_norm(params, x):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


def gelu(x):
    """With the tanh that flax takes by default."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(params, queries, context, allowed):
    """From `[q, width]` to `[k, width]` where `allowed [k]`."""
    q, k, v = (
        np.einsum("sd,dhe->she", x, params[name]["kernel"]) + params[name]["bias"]
        for name, x in (("query", queries), ("key", context), ("value", context))
    )
    logits = np.einsum("qhe,khe->hqk", q, k) / np.sqrt(q.shape[-1])
    logits = np.where(allowed, logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hqk,khe->qhe", weights, v)
    return (
        np.einsum("qhe,hed->qd", mixed, params["out"]["kernel"]) + params["out"]["bias"]
    )


def mlp(params, x):
    return dense(params["Dense_1"], gelu(dense(params["Dense_0"], x)))


def block(params, x, allowed):
    normed = layer_norm(params["LayerNorm_0"], x)
    own = params["MultiHeadDotProductAttention_0"]
    x = x + attention(own, normed, normed, allowed)
    return x + mlp(params, layer_norm(params["LayerNorm_1"], x))


def cut(modality, maps):
    """`[patches, values]` of one example, by slices."""
    side = modality.patch_side
    return np.stack(
        [
            maps[row : row + side, column : column + side].reshape(-1)
            for row in range(0, maps.shape[0], side)
            for column in range(0, maps.shape[1], side)
        ]
    )


def embed(params, modality, maps, width):
    patches = cut(modality, maps)
    if modality.has_labels:
        classes = params[f"{modality.name}_classes"]["embedding"]
        known = (patches >= 0) & (patches < modality.num_channels)
        patches = classes[np.where(known, patches, modality.num_channels)]
        patches = patches.reshape(len(patches), -1)
    else:
        patches = np.nan_to_num(patches, nan=0.0)
    tokens = dense(params[f"{modality.name}_patches"], patches)
    return tokens + sincos_positions(modality.grid(maps[None]), width)


def encode(params, encoder, inputs, is_visible):
    """`[global + tokens, width]` of one example; masked tokens hold nothing of use."""
    tokens = [
        embed(params, m, inputs[m.name], encoder.width) for m in encoder.modalities
    ]
    x = np.concatenate([params["global_tokens"], *tokens])
    allowed = np.concatenate([[True] * len(params["global_tokens"]), is_visible])
    for number in range(encoder.num_layers):
        x = block(params[f"Block_{number}"], x, allowed)
    return layer_norm(params["LayerNorm_0"], x)


def decode(params, model, modality, encoded, grids, is_visible):
    """`[patches, outputs]` of one example."""
    num_global = model.encoder.num_global_tokens
    context = dense(params["context"], encoded)
    places = [
        params[f"{name}_embedding"] + sincos_positions(grid, model.decoder_width)
        for name, grid in grids.items()
    ]
    number = list(grids).index(modality.name)
    start = sum(len(place) for place in places[:number])
    own = slice(start, start + len(places[number]))
    places = np.concatenate(places)
    tokens = np.where(is_visible[:, None], context[num_global:], params["mask_token"])
    tokens = tokens + places
    context = np.concatenate([context[:num_global], tokens])
    allowed = np.concatenate([[True] * num_global, is_visible])
    x = attention(
        params["MultiHeadDotProductAttention_0"],
        layer_norm(params["LayerNorm_0"], tokens[own]),
        layer_norm(params["LayerNorm_1"], context),
        allowed,
    )
    x = x + mlp(params, layer_norm(params["LayerNorm_2"], x))
    for number in range(model.decoder_layers):
        x = block(params[f"Block_{number}"], x, np.ones(len(x), bool))
    return dense(params["outputs"], x)
