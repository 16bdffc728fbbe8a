"""Hugging Face folders: parity with transformers, round trips, and what is refused."""

import dataclasses
import functools
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attent_jax import distributed
from attent_jax.models import DecoderConfig, generate
from experiments.llm_lora.huggingface import load_model, save_model
from experiments.llm_lora.huggingface_config import config_json, read_config
from tests.experiments.llm_lora.golden_models import (
    FAMILIES,
    GOLDEN,
    expected,
    loaded,
)

each_family = pytest.mark.parametrize("name", FAMILIES)


@each_family
def test_states_of_every_layer_and_logits_are_those_of_transformers(name):
    model, params = loaded(name)
    golden = expected(name)
    apply: Any = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    logits, captured = apply(params, golden["tokens"], golden["mask"].astype(np.int32))
    captured = captured["intermediates"]
    is_token = golden["mask"]
    scale = model.config.width**0.5 if model.config.scale_embeddings else 1.0
    states = [
        captured["embed"]["__call__"][0] * scale,
        captured["layers_0"]["__call__"][0][0],
        captured["norm"]["__call__"][0],
    ]
    # rotary pairs (2i, 2i + 1), a norm without its weight, or gelu without tanh are
    # off by 0.5, 1 and 0.001
    for own, wanted in zip(states, golden["states"], strict=True):
        np.testing.assert_allclose(own[is_token], wanted[is_token], atol=1e-5)
    np.testing.assert_allclose(
        logits[is_token], golden["logits"][is_token], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_generation_continues_as_transformers_does(name):
    model, params = loaded(name, scan_layers=True)
    golden = expected(name)
    generated = generate(
        model,
        params,
        None,
        jnp.asarray(golden["tokens"][:2]),
        is_token=jnp.asarray(golden["mask"][:2]),
        num_tokens=5,
    )
    assert generated.tokens.tolist() == golden["generated"].tolist()


def test_parameters_are_loaded_where_they_belong():
    mesh = distributed.make_mesh(data=2, fsdp=4)
    shardings = functools.partial(distributed.fsdp_shardings, mesh, min_size=32)
    for scan_layers in (False, True):
        _, whole = loaded("llama", scan_layers)
        model, params = load_model(
            GOLDEN / "llama",
            param_dtype=jnp.float32,
            scan_layers=scan_layers,
            shardings=shardings,
        )
        assert model.dtype == jnp.bfloat16
        jax.tree.map(np.testing.assert_array_equal, params, whole)
        wanted = shardings(params)
        assert jax.tree.map(lambda leaf: leaf.sharding, params) == wanted
        assert any(not s.is_fully_replicated for s in jax.tree.leaves(wanted))


@each_family
@pytest.mark.parametrize("max_shard_bytes", [10**9, 5_000])
def test_what_is_written_is_what_was_read(name, max_shard_bytes, tmp_path):
    model, params = loaded(name, scan_layers=True)
    dtype = jnp.bfloat16 if name == "mistral" else jnp.float32
    save_model(
        tmp_path,
        model.config,
        params,
        dtype=dtype,
        base=GOLDEN / name,
        max_shard_bytes=max_shard_bytes,
    )
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 1) == (max_shard_bytes == 5_000)
    written: dict[str, Any] = {}
    original: dict[str, Any] = {}
    for path in shards:
        written |= load_file(path)
    for path in (GOLDEN / name).glob("*.safetensors"):
        original |= load_file(path)
    assert written.keys() == original.keys()
    for tensor, value in original.items():
        assert written[tensor].dtype == value.dtype
        np.testing.assert_array_equal(written[tensor], value)
    assert read_config(tmp_path) == model.config
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 2


@pytest.mark.parametrize(
    "preset",
    [DecoderConfig.llama2_7b, DecoderConfig.mistral_7b, DecoderConfig.gemma_7b],
)
def test_configurations_survive_a_round_trip(preset, tmp_path):
    config = dataclasses.replace(preset(), rope_scale=2.0, rope_theta=1e6)
    values = config_json(config)
    for ignored in ("rope_parameters", "rope_scaling"):
        if ignored == "rope_scaling":
            values = {**config_json(config), ignored: None}
        (tmp_path / "config.json").write_text(
            json.dumps({k: v for k, v in values.items() if k != ignored})
        )
        assert read_config(tmp_path) == config


def test_the_first_layout_of_config_json_has_fewer_entries(tmp_path):
    # Llama-2-7b as published in July 2023
    values = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": 32000,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path) == DecoderConfig.llama2_7b()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2"}, "model_type 'qwen2'.*only LlamaForCausalLM, Mist"),
        ({"architectures": ["LlamaModel"]}, r"architectures \['LlamaModel'\]"),
        ({"rope_scaling": {"type": "yarn"}}, "rotary positions of type 'yarn'"),
        ({"attention_bias": True}, "has attention_bias, which the decoder does not"),
        ({"hidden_act": "relu"}, "has the activation 'relu', not llama's"),
        ({"quantization_config": {"bits": 4}}, "has a quantization_config: only"),
        ({"vocab_size": 25}, r"embed_tokens.weight in .* has shape \(24, 16\), but"),
        ({"intermediate_size": 8}, "mlp.* has shape .*correct config.json or the weig"),
        ({"num_hidden_layers": 3}, r"no tensor model.layers.2.* \(9 are missing\)"),
        ({"num_hidden_layers": 1}, "a tensor model.layers.1.*does not have"),
    ],
)
def test_another_architecture_is_refused(change, message, tmp_path):
    folder = shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_missing_and_damaged_files_are_refused(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    second = "model-00002-of-00002.safetensors"
    contents = (folder / second).read_bytes()
    (folder / second).write_bytes(contents[:-4])
    with pytest.raises(ValueError, match=f"{second} is damaged or cut short"):
        load_model(folder)
    (folder / second).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {second}, of 2 shards"):
        load_model(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../other.safetensors"}}))
    with pytest.raises(ValueError, match="outside the folder"):
        load_model(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="is no index"):
        load_model(folder)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="has neither model"):
        load_model(folder)
    (folder / "pytorch_model-00001-of-00002.bin").touch()
    with pytest.raises(ValueError, match=r"pickled \(pytorch_model.*can run any code"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_model(folder)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_weights_that_are_not_finite_or_not_floats_are_refused(scan_layers, tmp_path):
    folder = shutil.copytree(GOLDEN / "gemma", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 2] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name} in .* has NaN or infinite entries"):
        load_model(folder, scan_layers=scan_layers)
    tensors[name] = np.zeros(tensors[name].shape, np.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name} in .* is I8: only float32"):
        load_model(folder, scan_layers=scan_layers)


def test_a_decoder_that_transformers_does_not_have_is_not_written(tmp_path):
    model, params = loaded("llama")
    config = dataclasses.replace(model.config, activation="gelu")
    with pytest.raises(ValueError, match="is none of Llama, Mistral and Gemma"):
        save_model(tmp_path, config, params)


@each_family
def test_transformers_loads_what_is_written(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model, params = loaded(name, scan_layers=True)
    save_model(tmp_path, model.config, params, dtype=jnp.float32, max_shard_bytes=5_000)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    golden = expected(name)
    with torch.no_grad():
        logits = theirs(
            torch.tensor(golden["tokens"]),
            attention_mask=torch.tensor(golden["mask"]).long(),
        ).logits
    is_token = golden["mask"]
    np.testing.assert_allclose(
        logits.numpy()[is_token], golden["logits"][is_token], rtol=1e-4, atol=1e-5
    )
