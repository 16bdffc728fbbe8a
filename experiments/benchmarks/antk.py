"""The ANTK in four ways: closed form, matrix-free, two of neural-tangents."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.benchmarks.interleaved import time_interleaved
from experiments.study.workdir import environment
from theory.attention_ntk import AttentionParams, attention, attention_ntk
from theory.empirical_ntk import empirical_ntk, ntk_vector_product

Readout = Literal["full", "trace", "pool", "scalar"]


@dataclasses.dataclass(frozen=True)
class Antk:
    """Time the total ANTK of one attention layer, and the memory of its program.

    N sequences of S tokens of d features, one head, d outputs; "scalar" is "pool" with
    one output. "matrix-free" is one product K v over all outputs, which is what a step
    of functional gradient descent needs, and not a kernel. Ratios are to the closed
    form. Memory is what XLA allocates for results and intermediates. Programs that need
    more than --gib or --teraflops are skipped with a message.
    """

    shapes: tuple[tuple[int, int, int], ...] = (
        (4, 8, 16),
        (8, 8, 32),
        (16, 16, 32),
        (64, 16, 32),
    )
    """N, S and d of each table."""
    readouts: tuple[Readout, ...] = ("trace", "full", "pool", "scalar")
    """Kernels to compute."""
    x64: bool = False
    """Compute in float64."""
    gib: float = 6.0
    """Skip programs that need more memory, in GiB."""
    teraflops: float = 1.0
    """Skip programs with more operations, as XLA counts them."""
    repeats: int = 9
    """Rounds; medians are printed."""


def main(config: Antk) -> None:
    """Print a table for each shape and readout."""
    jax.config.update("jax_enable_x64", config.x64)
    print(environment()["device"], "| float64" if config.x64 else "| float32")
    for num_sequences, num_tokens, width in config.shapes:
        for readout in config.readouts:
            print(f"N = {num_sequences}, S = {num_tokens}, d = {width}: {readout}")
            _print_table(
                _contestants(num_sequences, num_tokens, width, readout), config
            )


def _print_table(contestants: dict[str, tuple[Callable, tuple]], config: Antk) -> None:
    mib, runs = {}, {}
    for name, (function, arguments) in contestants.items():
        try:
            program: Any = jax.jit(function).lower(*arguments).compile()
        except ValueError as error:  # the kernel alone is larger than the memory
            print(f"  {name:<24} skipped: {error}")
            continue
        memory, operations = program.memory_analysis(), program.cost_analysis()
        size = memory.output_size_in_bytes + memory.temp_size_in_bytes
        mib[name], teraflops = size / 2**20, operations.get("flops", 0.0) / 1e12
        if mib[name] > 1024 * config.gib or teraflops > config.teraflops:
            print(f"  {name:<24} skipped: {mib[name]:,.0f} MiB, {teraflops:.2f} TFLOP")
        else:
            runs[name] = functools.partial(program, *arguments)
    seconds = time_interleaved(runs, repeats=config.repeats)
    baseline = seconds.get("closed form", float("nan"))
    for name, time in seconds.items():
        ratio = f"{time / baseline:8.2f} ×"
        print(f"  {name:<24} {1e3 * time:10.2f} ms {ratio} {mib[name]:9.1f} MiB")


def _contestants(
    num_sequences: int, num_tokens: int, width: int, readout: Readout
) -> dict[str, tuple[Callable, tuple]]:
    rng = np.random.default_rng(0)
    num_outputs = 1 if readout == "scalar" else width

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), float)

    w_q, w_k, w_v = (draw(1, width, width) / width**0.5 for _ in range(3))
    w_o = draw(1, width, num_outputs) / width**0.5
    params = AttentionParams(w_q, w_k, w_v, w_o)
    x = draw(num_sequences, num_tokens, width)
    is_pooled = readout in ("pool", "scalar")

    def apply_fn(params, x):
        outputs = attention(params, x)
        return outputs.mean(axis=1) if is_pooled else outputs

    values = draw(*jax.eval_shape(apply_fn, params, x).shape)
    closed = "pool" if readout == "scalar" else readout
    trace_axes = (-1,) if readout == "trace" else ()
    return {
        "closed form": (
            lambda params, x: attention_ntk(params, x, readout=closed).total,
            (params, x),
        ),
        "matrix-free K v": (ntk_vector_product(apply_fn), (params, values, x)),
        "nt jacobian_contraction": (
            empirical_ntk(apply_fn, trace_axes=trace_axes),
            (params, x),
        ),
        "nt ntk_vector_products": (
            empirical_ntk(
                apply_fn, trace_axes=trace_axes, implementation="ntk_vector_products"
            ),
            (params, x),
        ),
    }


if __name__ == "__main__":
    main(tyro.cli(Antk))
