"""How the folders here were made: transformers 5.23, peft 0.21, torch 2.13 on a CPU.

In an environment with these three:

    python write_golden.py

Every folder holds a random model's config.json and safetensors as transformers writes
them, and expected.npz: tokens and masks of a batch (no padding, padding on the left,
on the right), states after each layer, logits, and a greedy continuation of 5 tokens
of the first two rows. llama and gemma have config.json rewritten to the older layout.
"""
# pyright: reportMissingImports=false

import json
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MODELS = {
    "llama": (
        transformers.LlamaConfig(**SIZES, num_key_value_heads=4, rms_norm_eps=1e-5),
        {"max_shard_size": "12KB"},
    ),
    "llama_tied": (
        transformers.LlamaConfig(
            **SIZES,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 500.0,
            },
        ),
        {},
    ),
    "mistral": (
        transformers.MistralConfig(
            **SIZES, num_key_value_heads=1, head_dim=6, sliding_window=3
        ),
        {},
    ),
    "gemma": (
        transformers.GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8),
        {},
    ),
}
TOKENS = torch.tensor(
    [
        [5, 9, 3, 17, 8, 21, 4, 11],
        [0, 0, 0, 7, 7, 12, 23, 6],
        [14, 3, 19, 22, 10, 5, 0, 0],
    ]
)
MASK = (TOKENS != 0).long()
POSITIONS = (MASK.cumsum(1) - 1).clamp(min=0)


def randomize_norms(model):
    """Ones and zeros would hide a norm that is not applied."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn(parameter.shape)


def outputs(model):
    with torch.no_grad():
        return model(
            TOKENS,
            attention_mask=MASK,
            position_ids=POSITIONS,
            output_hidden_states=True,
        )


def older_layout(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2))


def write_model(name):
    config, options = MODELS[name]
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager"
    )
    model.eval()
    randomize_norms(model)
    if name == "mistral":
        model = model.to(torch.bfloat16)
    folder = HERE / name
    model.save_pretrained(folder, **options)
    # again, as .to has rounded the rotary wavelengths too
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    (folder / "generation_config.json").unlink()
    if name in ("llama", "gemma"):
        older_layout(folder)
    found = outputs(model)
    generated = model.generate(
        TOKENS[:2],
        attention_mask=MASK[:2],
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    np.savez_compressed(
        folder / "expected.npz",
        tokens=TOKENS.int(),
        mask=MASK.bool(),
        states=torch.stack(found.hidden_states).numpy(),
        logits=found.logits.numpy(),
        generated=generated[:, TOKENS.shape[1] :].int(),
    )
    return model


def write_adapter(model):
    torch.manual_seed(7)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        lora_dropout=0.1,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.eval()
    model.save_pretrained(HERE / "adapter")
    (HERE / "adapter" / "README.md").unlink()
    np.savez_compressed(
        HERE / "adapter" / "expected.npz", logits=outputs(model).logits.numpy()
    )


if __name__ == "__main__":
    models = {name: write_model(name) for name in MODELS}
    write_adapter(models["llama"])
