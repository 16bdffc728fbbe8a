"""The cost of the NTK score of a pool against a forward and backward pass over it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp
import tyro

from attent_jax import models, scores
from experiments.benchmarks.interleaved import store, time_interleaved
from experiments.study.workdir import environment

SIZES = {"3 × 64": (64, 3), "5 × 256": (256, 5)}
NUM_DIMS, NUM_OUTPUTS = 2, 3  # of a picture in colour


@dataclasses.dataclass(frozen=True)
class NtkRefresh:
    """Time, FLOPs and memory of `scores.ntk_guided` over the pixels of a picture.

    The learners are SIRENs of 3 layers of 64 and 5 of 256. Ratios are to the mean
    loss and its gradient over the same pixels, in as many chunks. By the cost model
    they are 5 / 3 in one chunk and 2 in several. The large picture's programs are
    compiled and not run.
    """

    num_pixels: int = 16_384
    """Of the picture that is timed."""
    num_large: int = 4_194_304
    """Of the picture that is only compiled for."""
    chunk_size: int = 4_096
    """Rows of a chunk, in both pictures."""
    repeats: int = 5
    """Rounds; medians are printed."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Append the rows to this file, as JSON lines that name the machine."""


def make_programs(
    width: int, num_layers: int, num_pixels: int, chunk_size: int | None
) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """Jitted programs of `(params, batch)`, and the abstract arguments.

    With a chunk size, both run in chunks of that many rows.
    """
    model = models.Siren(NUM_OUTPUTS, width, num_layers)

    def apply_fn(params, rng, batch):
        return cast(jax.Array, model.apply(params, batch["x"]))

    def loss_of(outputs, batch):
        return jnp.mean((outputs - batch["targets"]) ** 2, axis=-1)

    def mean_loss(params, batch):
        return jnp.mean(loss_of(apply_fn(params, None, batch), batch))

    def forward_and_backward(params, batch):
        if chunk_size is None:
            return jax.value_and_grad(mean_loss)(params, batch)

        def add(total, chunk):
            part = jax.value_and_grad(mean_loss)(params, chunk)
            return jax.tree.map(jnp.add, total, part), None

        chunks = jax.tree.map(
            lambda leaf: leaf.reshape(-1, chunk_size, leaf.shape[-1]), batch
        )
        zeros = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))
        return jax.lax.scan(add, zeros, chunks)[0]

    score = scores.ntk_guided(apply_fn, loss_of, chunk_size=chunk_size)
    pixels = {
        "x": jax.ShapeDtypeStruct((num_pixels, NUM_DIMS), jnp.float32),
        "targets": jax.ShapeDtypeStruct((num_pixels, NUM_OUTPUTS), jnp.float32),
    }
    params = jax.eval_shape(model.init, jax.random.key(0), pixels["x"])
    programs = {
        "forward and backward": jax.jit(forward_and_backward),
        "ntk_guided": jax.jit(lambda params, batch: score(params, None, batch)),
    }
    return programs, (params, pixels)


def measure(size: str, config: NtkRefresh) -> list[dict[str, Any]]:
    """A row for each program: in one chunk, in several, and for the large picture."""
    rows, timed = [], {}
    for chunks, num_pixels, chunk_size in (
        ("one", config.num_pixels, None),
        ("several", config.num_pixels, config.chunk_size),
        ("several", config.num_large, config.chunk_size),
    ):
        # XLA counts the body of a loop once.
        num_chunks = num_pixels // chunk_size if chunk_size else 1
        programs, arguments = make_programs(*SIZES[size], num_pixels, chunk_size)
        compiled = {
            name: program.lower(*arguments).compile()
            for name, program in programs.items()
        }
        for name, program in compiled.items():
            memory = program.memory_analysis()
            rows.append(
                {
                    "siren": size,
                    "pixels": num_pixels,
                    "chunks": chunks,
                    "program": name,
                    "flops": num_chunks * program.cost_analysis()["flops"],
                    "temporary_bytes": memory.temp_size_in_bytes,
                    "argument_bytes": memory.argument_size_in_bytes,
                }
            )
        if num_pixels == config.num_pixels:
            values = jax.tree.map(_uniform, arguments)
            for name, program in compiled.items():
                timed[chunks, name] = lambda run=program, of=values: run(*of)
    seconds = time_interleaved(
        {f"{name}, {chunks}": run for (chunks, name), run in timed.items()},
        repeats=config.repeats,
    )
    for row in rows:
        if row["pixels"] == config.num_pixels:
            row["seconds"] = seconds[f"{row['program']}, {row['chunks']}"]
    for base, row in zip(rows[::2], rows[1::2], strict=True):
        for name in ("seconds", "flops", "temporary_bytes"):
            if name in row:
                row[f"{name}_of_forward_and_backward"] = row[name] / base[name]
    return rows


def _uniform(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Small values of either sign; the time does not depend on them."""
    return jax.random.uniform(jax.random.key(0), leaf.shape, leaf.dtype, -0.1, 0.1)


def main(config: NtkRefresh) -> None:
    """Print a row for each learner, picture and number of chunks; store them."""
    if config.num_pixels % config.chunk_size or config.num_large % config.chunk_size:
        raise ValueError(
            f"num_pixels={config.num_pixels} and num_large={config.num_large} must be "
            f"multiples of chunk_size={config.chunk_size}: choose powers of two."
        )
    print(environment()["device"], "| chunks of", f"{config.chunk_size:,} rows")
    print("of a forward and backward pass over the same pixels:")
    print("siren       pixels  chunks        ms   time  FLOPs  temporary MiB")
    for size in SIZES:
        rows = measure(size, config)
        for row in rows[1::2]:
            is_timed = "seconds" in row
            milliseconds = f"{1e3 * row['seconds']:8.1f}" if is_timed else 8 * " "
            time = row.get("seconds_of_forward_and_backward")
            print(
                f"{size:<8} {row['pixels']:>9,}  {row['chunks']:<8}{milliseconds}  "
                f"{f'{time:5.2f}' if is_timed else 5 * ' '}  "
                f"{row['flops_of_forward_and_backward']:5.2f}  "
                f"{row['temporary_bytes'] / 2**20:13.1f}"
            )
        store(config.out, "ntk_refresh", config, rows)


if __name__ == "__main__":
    main(tyro.cli(NtkRefresh))
