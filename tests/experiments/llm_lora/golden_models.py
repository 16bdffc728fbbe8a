"""The models under golden/, and what transformers computed with them."""

from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments.llm_lora.huggingface import load_model

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("llama", "llama_tied", "mistral", "gemma")


@cache
def expected(name):
    with np.load(GOLDEN / name / "expected.npz") as values:
        return dict(values)


@cache
def loaded(name, scan_layers=False):
    return load_model(
        GOLDEN / name,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        scan_layers=scan_layers,
    )
