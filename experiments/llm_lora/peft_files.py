"""Adapters in PEFT's folders: adapter_config.json and adapter_model.safetensors."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from attent_jax.models import Decoder
from attent_jax.typing import Params
from experiments.llm_lora.huggingface import tensor_names
from experiments.llm_lora.lora import (
    PROJECTIONS,
    A,
    LoraConfig,
    add_adapters,
    flat_leaves,
    init_adapters,
)
from experiments.llm_lora.weight_files import Pending, open_file, write_file

CONFIG, WEIGHTS, PICKLED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "use_rslora": (False,),
    "fan_in_fan_out": (False,),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "layers_to_transform": (None,),
}
"""What these entries must be, if given: other values change what is computed."""


def save_adapters(
    folder: Path, adapters: Params, config: LoraConfig, *, base: str | None = None
) -> None:
    """Write adapters that `peft.PeftModel.from_pretrained` loads.

    Args:
      folder: made if needed.
      adapters: from `split_adapters`.
      config: of the adapters.
      base: name or folder of the model that they belong to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": [f"{target}_proj" for target in config.targets],
        "bias": "none",
        "inference_mode": True,
    }
    tensors = []
    for path, leaf in flat_leaves(adapters).items():
        names = _names(path, leaf)
        layers = np.asarray(leaf).reshape(len(names), *leaf.shape[-2:])
        for name, layer in zip(names, layers, strict=True):
            tensors.append(
                Pending(name, layer.T.shape, layer.dtype, lambda layer=layer: layer.T)
            )
    write_file(folder / WEIGHTS, tensors)
    (folder / CONFIG).write_text(json.dumps(values, indent=2))


def load_adapters(folder: Path, model: Decoder) -> tuple[LoraConfig, Params]:
    """Adapters of a PEFT folder, in float32 on the host.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors.
      model: the decoder that they adapt, without adapters.

    Returns:
      `(config, adapters)`: give the first to `add_adapters`, place the second with
      `attent_jax.distributed.put` and join it to the base with `join_adapters`.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if the adapters are of another kind than LoRA's, do not fit the model,
        are not finite, or pickled.
    """
    config = _read_config(folder)
    if not (folder / WEIGHTS).exists():
        if (folder / PICKLED).exists():
            raise ValueError(
                f"{folder} has its adapters pickled ({PICKLED}): reading a pickle can "
                f"run any code, so only safetensors are read. Save them again with "
                f"`model.save_pretrained(folder)`."
            )
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}.")
    tensors = open_file(folder / WEIGHTS)
    adapted = add_adapters(model, config)
    expected = flat_leaves(
        jax.eval_shape(lambda: init_adapters(adapted, jax.random.key(0)))
    )
    names = {path: _names(path, leaf) for path, leaf in expected.items()}
    missing = sorted({n for own in names.values() for n in own} - tensors.keys())
    unknown = sorted(tensors.keys() - {n for own in names.values() for n in own})
    if missing or unknown:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit the model: "
            f"{len(missing)} tensors are missing {missing[:1]} and {len(unknown)} "
            f"unknown {unknown[:1]}."
        )
    flat = {}
    for path, leaf in expected.items():
        layers = []
        for name in names[path]:
            tensor = tensors[name]
            if tensor.shape != leaf.shape[-2:][::-1]:
                raise ValueError(
                    f"{name} in {tensor.path} has shape {tensor.shape}, but the model "
                    f"and {CONFIG} ask for {leaf.shape[-2:][::-1]}."
                )
            values = tensor.read((slice(None), slice(None))).T.astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError(
                    f"{name} in {tensor.path} has NaN or infinite entries."
                )
            layers.append(values)
        flat[path] = np.stack(layers).reshape(leaf.shape)
    return config, unflatten_dict(flat)


def _read_config(folder: Path) -> LoraConfig:
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: pass an adapter's folder.")
    try:
        values = json.loads(path.read_text())
        rank, alpha, given = values["r"], values["lora_alpha"], values["target_modules"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no adapter's configuration: {error!r}.") from None
    for name, plain in _PLAIN.items():
        if name in values and values[name] not in plain:
            raise ValueError(
                f"{path} has {name} {values[name]!r}: only {plain[0]!r} is supported."
            )
    known = {f"{projection}_proj": projection for projection in PROJECTIONS}
    # "all-linear" is saved as the paths of all modules
    names = set() if isinstance(given, str) else {n.rpartition(".")[2] for n in given}
    if not names or not names <= known.keys():
        raise ValueError(
            f"{path} has target_modules {given!r}: only a list of "
            f"{', '.join(known)} is supported."
        )
    targets = tuple(known[name] for name in known if name in names)
    return LoraConfig(rank, float(alpha), values.get("lora_dropout", 0.0), targets)


def _names(path: tuple[str, ...], leaf: Any) -> list[str]:
    """PEFT's names of an adapter's leaf, one for each layer that it holds."""
    kernel = "/".join((*path[:-1], "kernel"))
    factor = "lora_A" if path[-1] == A else "lora_B"
    num_layers = leaf.shape[0] if jnp.ndim(leaf) == 3 else 1
    return [
        f"base_model.model.{name.removesuffix('weight')}{factor}.weight"
        for name in tensor_names(kernel, num_layers)
    ]
