"""Low-rank adapters of a decoder's projections, through qwix.

A projection x W becomes x W + (alpha / rank) x A B. W is frozen; A and B are leaves
beside it, `kernel_lora_a` and `kernel_lora_b`.

Reference: Hu et al., LoRA (arXiv 2106.09685).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import qwix
from flax.traverse_util import flatten_dict, unflatten_dict

from attent_jax.models import Decoder
from attent_jax.typing import Params

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
A, B = "kernel_lora_a", "kernel_lora_b"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which projections have adapters, and of what kind."""

    rank: int = 8
    alpha: float = 16.0
    """The adapters' outputs are multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of the adapters' inputs that is dropped in training."""
    targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")
        unknown = sorted(set(self.targets) - set(PROJECTIONS))
        if unknown or not self.targets:
            raise ValueError(
                f"targets must be some of {PROJECTIONS}, got {self.targets}."
            )


def add_adapters(model: Decoder, config: LoraConfig, *, train: bool = False) -> Any:
    """The decoder with adapters, which are in its parameters beside the kernels.

    Args:
      model: without adapters.
      config: of the adapters.
      train: whether their inputs are dropped out; `apply` then needs a key,
        `rngs={"dropout": rng}`. Parameters are the same either way.

    Returns:
      A `Decoder`.
    """
    rule = qwix.LoraRule(
        module_path=f".*/({'|'.join(config.targets)})",
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout if train else 0.0,
        lora_a_initializer=_uniform,
        lora_b_initializer=_zeros,
    )
    return qwix.apply_lora_to_model(
        model, _Provider([rule]), methods=("__call__", "extend")
    )


class _Provider(qwix.LoraProvider):
    """Keeps activations in the model's dtype where adapters are wider."""

    def dot_general(self, lhs, rhs, *args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            adapted = super().dot_general(lhs, rhs, *args, **kwargs)
        return adapted.astype(kwargs.get("preferred_element_type") or lhs.dtype)


def _uniform(rng, shape, _):
    """Uniform in ±1 / √inputs, as PEFT draws A; float32 whatever the kernels are."""
    scale = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return scale(rng, shape, jnp.float32)


def _zeros(rng, shape, _):
    return jnp.zeros(shape, jnp.float32)


def is_adapter(path: str) -> bool:
    """Whether a parameter's path is an adapter's: pass it as `trainable=`."""
    return path.endswith((A, B))


def init_adapters(model: Any, rng: jax.Array) -> Params:
    """New adapters in float32, with B = 0; the base's leaves are not among them.

    Under `jax.jit` the base is not computed.
    """
    params: Any = model.init(rng, jnp.zeros((1, 2), jnp.int32))
    return split_adapters(params)[1]


def split_adapters(params: Params) -> tuple[Params, Params]:
    """`(base, adapters)`, each without the other's leaves; `join_adapters` inverts."""
    flat = flat_leaves(params)
    is_own = {path: is_adapter("/".join(path)) for path in flat}
    base, adapters = (
        unflatten_dict({path: flat[path] for path in flat if is_own[path] == own})
        for own in (False, True)
    )
    return base, adapters


def join_adapters(base: Params, adapters: Params) -> Params:
    """Parameters of the adapted model."""
    return unflatten_dict(flat_leaves(base) | flat_leaves(adapters))


def cast_adapters(params: Params, dtype: Any) -> Params:
    """Adapters in the model's dtype; the float32 originals are what is trained.

    Do this in the loss: without it their products are computed in float32.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.astype(dtype) if path[-1].key in (A, B) else leaf,
        params,
    )


def merge_adapters(params: Params, config: LoraConfig) -> Params:
    """The base's parameters with W + (alpha / rank) A B in place of W."""
    flat = flat_leaves(params)
    base = {path: leaf for path, leaf in flat.items() if path[-1] not in (A, B)}
    for path in flat:
        if path[-1] != A:
            continue
        kernel = (*path[:-1], "kernel")
        update = jnp.einsum(
            "...ir,...ro->...io",
            flat[path].astype(jnp.float32),
            flat[(*path[:-1], B)].astype(jnp.float32),
            precision="highest",
        )
        merged = base[kernel].astype(jnp.float32) + update * config.alpha / config.rank
        base[kernel] = merged.astype(base[kernel].dtype)
    return unflatten_dict(base)


def flat_leaves(params: Params) -> dict[tuple[str, ...], Any]:
    """Leaves by their paths."""
    flat: Any = flatten_dict(params)
    return flat
