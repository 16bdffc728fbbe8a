"""Host memory while a model is loaded from a Hugging Face folder."""

import dataclasses
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from attent_jax.models import Decoder, DecoderConfig
from experiments.llm_lora.huggingface import load_model, save_model

MEBIBYTE = 2**20
CONFIG = DecoderConfig(
    vocabulary_size=32_000,
    width=2048,
    num_layers=8,
    num_heads=16,
    num_kv_heads=16,
    head_width=128,
    mlp_width=5504,
)
"""Half a billion parameters in bfloat16: 1 GB."""


@dataclasses.dataclass(frozen=True)
class ModelLoading:
    """Peak host memory while a random model of 1 GB in several shards is loaded.

    The peak may exceed what was used before by the device copy, which on a CPU is host
    memory too, and 1.3 times the largest shard. Writing comes first, in a process of
    its own, as the peak of a process never sinks.
    """

    shard_megabytes: int = 250
    """Of each file."""
    scan_layers: bool = True
    """Whether layers are stacked."""


def write(folder: Path, shard_megabytes: int) -> None:
    """A random model."""
    model = Decoder(CONFIG, param_dtype=jnp.bfloat16, scan_layers=True)
    draw = np.random.default_rng(0)

    def leaf(shape):
        noise = draw.integers(0, 2**14, size=shape.shape, dtype=np.uint16)
        return jnp.asarray(noise).view(jnp.bfloat16)  # finite

    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.tree.map(leaf, jax.eval_shape(model.init, jax.random.key(0), tokens))
    save_model(folder, CONFIG, params, max_shard_bytes=shard_megabytes * 10**6)


def peak_bytes() -> int:
    """Of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(config: ModelLoading) -> None:
    """Write, load, and print the peak."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn = multiprocessing.get_context("spawn")
        writer = spawn.Process(target=write, args=(folder, config.shard_megabytes))
        writer.start()
        writer.join()
        jnp.ones(3).block_until_ready()
        shards = [path.stat().st_size for path in folder.glob("*.safetensors")]
        before, start = peak_bytes(), time.perf_counter()
        _, params = load_model(folder, scan_layers=config.scan_layers)
        jax.block_until_ready(params)
        seconds = time.perf_counter() - start
    on_device = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    beside = peak_bytes() - before - on_device
    print(
        f"{sum(shards) / MEBIBYTE:,.0f} MiB in {len(shards)} files, the largest "
        f"{max(shards) / MEBIBYTE:,.0f} MiB, loaded in {seconds:.1f} s. Beside "
        f"{on_device / MEBIBYTE:,.0f} MiB of parameters the peak is "
        f"{beside / MEBIBYTE:,.0f} MiB: {beside / max(shards):.2f} of the largest file."
    )


if __name__ == "__main__":
    main(tyro.cli(ModelLoading, prog="python -m experiments.benchmarks.model_loading"))
