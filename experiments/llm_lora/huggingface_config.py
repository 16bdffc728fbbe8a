"""config.json of Llama, Mistral and Gemma, as a `DecoderConfig` and back."""

import json
from pathlib import Path
from typing import Any

from attent_jax.models import DecoderConfig

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "gemma": "GemmaForCausalLM",
}
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
_GELU = ("gelu", "gelu_pytorch_tanh", None)
"""Gemma's first files say "gelu", and meant its tanh approximation."""


def read_config(folder: Path) -> DecoderConfig:
    """The decoder that a Hugging Face folder holds.

    Both layouts of the rotary positions are read: `rope_theta` and `rope_scaling`, and
    `rope_parameters`.

    Raises:
      FileNotFoundError: if there is no config.json.
      ValueError: if it is of another architecture, or has a part that the decoder does
        not have.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no config.json: pass a model's folder.")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    family = values.get("model_type") if isinstance(values, dict) else None
    architectures = values.get("architectures") if isinstance(values, dict) else None
    if family not in _ARCHITECTURES or architectures not in (
        None,
        [_ARCHITECTURES[family]],
    ):
        raise ValueError(
            f"{path} has model_type {family!r} and architectures {architectures}: only "
            f"{', '.join(_ARCHITECTURES.values())} can be loaded."
        )
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}.")
    _refuse_other_parts(path, family, values)
    theta, scale = _rope(path, values)
    is_gemma = family == "gemma"
    num_heads = values["num_attention_heads"]
    default_kv_heads = {"llama": num_heads, "mistral": 8, "gemma": 16}[family]
    default_width = 256 if is_gemma else values["hidden_size"] // num_heads
    window = values.get("sliding_window", 4096) if family == "mistral" else None
    return DecoderConfig(
        vocabulary_size=values["vocab_size"],
        width=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=values.get("num_key_value_heads") or default_kv_heads,
        head_width=values.get("head_dim") or default_width,
        mlp_width=values["intermediate_size"],
        activation="gelu" if is_gemma else "silu",
        rope_theta=theta,
        rope_scale=scale,
        norm_epsilon=values.get("rms_norm_eps", 1e-6),
        norm_offset=1.0 if is_gemma else 0.0,
        scale_embeddings=is_gemma,
        tie_embeddings=values.get("tie_word_embeddings", is_gemma),
        sliding_window=window,
    )


def _refuse_other_parts(path: Path, family: str, values: dict[str, Any]) -> None:
    """Refuse what would be left out silently."""
    is_gemma = family == "gemma"
    activation = values.get("hidden_activation") or values.get("hidden_act")
    if activation not in (_GELU if is_gemma else ("silu", None)):
        raise ValueError(f"{path} has the activation {activation!r}, not {family}'s.")
    for name in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
        if values.get(name):
            raise ValueError(f"{path} has {name}, which the decoder does not.")
    if values.get("quantization_config"):
        raise ValueError(
            f"{path} has a quantization_config: only weights in float32, float16 and "
            f"bfloat16 are read; pass the model that was quantized."
        )


def _rope(path: Path, values: dict[str, Any]) -> tuple[float, float]:
    """Theta, and by what positions are divided."""
    given = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ("default", "linear"):
        raise ValueError(
            f"{path} has rotary positions of type {kind!r}: only 'default' and "
            f"'linear' are supported."
        )
    theta = given.get("rope_theta", values.get("rope_theta", 10_000.0))
    return float(theta), float(given["factor"]) if kind == "linear" else 1.0


def config_json(config: DecoderConfig) -> dict[str, Any]:
    """The contents of config.json for a decoder, in both layouts of `rope`.

    Raises:
      ValueError: if the decoder is none of Llama, Mistral and Gemma.
    """
    is_gemma = config.norm_offset == 1 and config.scale_embeddings
    family = "gemma" if is_gemma else "mistral" if config.sliding_window else "llama"
    is_plain = config.norm_offset == 0 and not config.scale_embeddings
    fits_gemma = config.activation == "gelu" and config.sliding_window is None
    fits = fits_gemma if is_gemma else is_plain and config.activation == "silu"
    if not fits:
        raise ValueError(
            f"{config} is none of Llama, Mistral and Gemma: transformers has no model "
            f"with this activation, norm and window."
        )
    scaling = (
        {"rope_type": "default"}
        if config.rope_scale == 1
        else {"rope_type": "linear", "factor": config.rope_scale}
    )
    values = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "gelu_pytorch_tanh" if is_gemma else "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scale == 1 else scaling,
        "rope_parameters": scaling | {"rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
    }
    return values | (
        {"sliding_window": config.sliding_window} if family == "mistral" else {}
    )
