"""Hugging Face folders of Llama, Mistral and Gemma: loaded and written without torch.

Weights go from the files straight into sharded device arrays, a tensor at a time.
"""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from attent_jax.models import Decoder, DecoderConfig
from attent_jax.typing import Params
from experiments.llm_lora.huggingface_config import config_json, read_config
from experiments.llm_lora.weight_files import (
    INDEX,
    Pending,
    Tensor,
    open_tensors,
    write_tensors,
)

TOP = {
    "embed/embedding": "model.embed_tokens.weight",
    "norm/scale": "model.norm.weight",
    "head/embedding": "lm_head.weight",
}
IN_LAYER = {
    "attention_norm/scale": "input_layernorm.weight",
    "attention/q/kernel": "self_attn.q_proj.weight",
    "attention/k/kernel": "self_attn.k_proj.weight",
    "attention/v/kernel": "self_attn.v_proj.weight",
    "attention/o/kernel": "self_attn.o_proj.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/down/kernel": "mlp.down_proj.weight",
}
_UNUSED = ("rotary_emb.inv_freq",)
"""Endings of tensors that older files have, and that are computed."""


def load_model(
    folder: Path,
    *,
    dtype: Any = jnp.bfloat16,
    param_dtype: Any = jnp.bfloat16,
    remat: bool = False,
    scan_layers: bool = True,
    shardings: Callable[[Params], Any] | None = None,
) -> tuple[Decoder, Params]:
    """The model of a Hugging Face folder and its parameters, on their devices.

    Args:
      folder: with config.json and safetensors, one or several with their index.
      dtype: of the model's computation.
      param_dtype: of the parameters, whatever the files' is.
      remat: as `Decoder` takes it.
      scan_layers: as `Decoder` takes it.
      shardings: `abstract params -> shardings`, e.g.
        `functools.partial(attent_jax.distributed.fsdp_shardings, mesh)`. None: all on
        the first device.

    Returns:
      `(model, params)`

    Raises:
      FileNotFoundError: if config.json or a shard is missing.
      ValueError: if the architecture is another one, tensors are missing, unknown, of
        another shape, not finite, or pickled.
    """
    model = Decoder(
        read_config(folder),
        dtype=dtype,
        param_dtype=param_dtype,
        remat=remat,
        scan_layers=scan_layers,
    )
    abstract = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    )
    tensors = open_tensors(folder)
    _check(folder, model.config, abstract, tensors)
    placed = (
        jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), abstract)
        if shardings is None
        else shardings(abstract)
    )
    return model, jax.tree_util.tree_map_with_path(
        lambda path, leaf, sharding: _load_leaf(
            tensors, _path_name(path), leaf, sharding
        ),
        abstract,
        placed,
    )


def save_model(
    folder: Path,
    config: DecoderConfig,
    params: Params,
    *,
    dtype: Any = jnp.bfloat16,
    base: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM` loads.

    Args:
      folder: made if needed.
      config: of the decoder.
      params: of the decoder, without adapters.
      dtype: of the weights in the files.
      base: the folder that the parameters were loaded from: the tokenizer's files, and
        entries of config.json beside the architecture, are copied.
      max_shard_bytes: of a file.

    Raises:
      ValueError: if `params` has adapters, or transformers has no such model.
    """
    values = config_json(config) | {"dtype": jnp.dtype(dtype).name}
    values["torch_dtype"] = values["dtype"]
    folder.mkdir(parents=True, exist_ok=True)
    if base is not None:
        values = json.loads((base / "config.json").read_text()) | values
        for path in base.iterdir():
            is_weights = path.name in ("config.json", INDEX)
            if path.suffix in (".json", ".model", ".txt", ".jinja") and not is_weights:
                shutil.copyfile(path, folder / path.name)
    write_tensors(folder, _pending(params, dtype), max_shard_bytes=max_shard_bytes)
    (folder / "config.json").write_text(json.dumps(values, indent=2))


def tensor_names(path: str, num_layers: int) -> list[str]:
    """The tensors that a parameter is made of: one, or one for each layer."""
    group, _, rest = path.removeprefix("params/").partition("/")
    if group == "layers":
        return [f"model.layers.{n}.{IN_LAYER[rest]}" for n in range(num_layers)]
    if group.startswith("layers_"):
        return [f"model.layers.{group.removeprefix('layers_')}.{IN_LAYER[rest]}"]
    return [TOP[f"{group}/{rest}"]]


def _path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_stacked(path: str) -> bool:
    return path.startswith("params/layers/")


def _is_transposed(path: str) -> bool:
    return path.endswith("kernel")


def _check(folder, config, abstract, tensors: dict[str, Tensor]) -> None:
    """Compare all names and shapes before anything is read."""
    expected = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        path = _path_name(key_path)
        shape = leaf.shape[1:] if _is_stacked(path) else leaf.shape
        shape = shape[::-1] if _is_transposed(path) else shape
        names = tensor_names(path, config.num_layers)
        expected |= dict.fromkeys(names, tuple(shape))
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise ValueError(
            f"{folder} has no tensor {missing[0]} ({len(missing)} are missing): its "
            f"files are not those of its config.json."
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{name} in {tensors[name].path} has shape {tensors[name].shape}, but "
                f"config.json asks for {shape}: correct config.json or the weights."
            )
    ignored = {"lm_head.weight"} if config.tie_embeddings else set()
    unknown = sorted(
        name
        for name in tensors.keys() - expected.keys() - ignored
        if not name.endswith(_UNUSED)
    )
    if unknown:
        raise ValueError(
            f"{folder} has a tensor {unknown[0]} that the decoder does not have "
            f"({len(unknown)} are unknown): its architecture is another one."
        )


def _load_leaf(tensors, path: str, leaf: Any, sharding: Any) -> jax.Array:
    num_layers = leaf.shape[0] if _is_stacked(path) else 1
    parts = [tensors[name] for name in tensor_names(path, num_layers)]
    options = (leaf.dtype, _is_transposed(path), sharding)
    if not _is_stacked(path):
        part = _on_device(parts[0], sharding, _is_transposed(path))
        whole, is_finite = _convert(*options)(part)
        _check_finite(parts[0], is_finite)
        return whole
    create = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=sharding)
    whole = create()
    for number, tensor in enumerate(parts):
        part = _on_device(tensor, _of_one_layer(sharding), _is_transposed(path))
        whole, is_finite = _write_layer(*options)(whole, number, part)
        # waits, so that the host holds one tensor at a time
        _check_finite(tensor, is_finite)
    return whole


def _on_device(tensor: Tensor, sharding: Any, is_transposed: bool) -> jax.Array:
    """A tensor as it is in the file, split as the parameter will be."""
    if is_transposed and isinstance(sharding, NamedSharding):
        rows, columns = (*sharding.spec, None, None)[:2]
        sharding = NamedSharding(sharding.mesh, PartitionSpec(columns, rows))
    return jax.make_array_from_callback(tensor.shape, sharding, tensor.read)


@functools.cache
def _convert(dtype: Any, is_transposed: bool, sharding: Any) -> Any:
    def convert(part):
        oriented = part.T if is_transposed else part
        return oriented.astype(dtype), jnp.isfinite(part).all()

    return jax.jit(convert, out_shardings=(sharding, None))


@functools.cache
def _write_layer(dtype: Any, is_transposed: bool, sharding: Any) -> Any:
    def write(whole, number, part):
        oriented = part.T if is_transposed else part
        # in place; .at[number].set is a scatter, which is not on every backend
        whole = jax.lax.dynamic_update_index_in_dim(
            whole, oriented.astype(dtype), number, axis=0
        )
        return whole, jnp.isfinite(part).all()

    return jax.jit(write, donate_argnums=0, out_shardings=(sharding, None))


def _check_finite(tensor: Tensor, is_finite: Any) -> None:
    if not is_finite:
        raise ValueError(
            f"{tensor.name} in {tensor.path} has NaN or infinite entries: get an "
            f"undamaged copy of the model."
        )


def _of_one_layer(sharding: Any) -> Any:
    """The sharding of one layer of a stacked parameter."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


def _pending(params: Params, dtype: Any) -> Iterator[Pending]:
    """The tensors of a model."""
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = _path_name(key_path)
        if "lora" in path:
            raise ValueError(f"params has the adapter {path}: merge adapters first.")
        num_layers = leaf.shape[0] if _is_stacked(path) else 1
        for number, name in enumerate(tensor_names(path, num_layers)):

            def fetch(leaf=leaf, number=number, path=path):
                part = np.asarray(leaf[number] if _is_stacked(path) else leaf)
                return part.T if _is_transposed(path) else part

            shape = leaf.shape[1:] if _is_stacked(path) else leaf.shape
            shape = shape[::-1] if _is_transposed(path) else shape
            yield Pending(name, shape, jnp.dtype(dtype), fetch)
