"""The ANTK by four roads: closed form, matrix-free, neural-tangents' two."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.benchmarks.interleaved import time_interleaved
from experiments.runs import environment
from theory.attention_ntk import AttentionParams, attention, attention_ntk
from theory.empirical_ntk import empirical_ntk, ntk_vector_product

Readout = Literal["full", "trace", "pool", "scalar"]
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Antk:
    """Time the total ANTK of one attention layer, and the memory of its program.

    Kernels are in the first columns' shapes: N sequences of S tokens of d features, one
    head, d outputs; "scalar" is "pool" with one output. "matrix-free" is one product
    K v, for all outputs and not a kernel: what one step of functional gradient descent
    needs. Ratios are to the closed form; memory is what XLA allots to results and
    intermediates. A row that would hold more than --gib is left out.
    """

    shapes: tuple[tuple[int, int, int], ...] = (
        (4, 8, 16),
        (8, 8, 32),
        (16, 16, 32),
        (64, 64, 64),
    )
    """N S d of each table, one after the other."""
    readouts: tuple[Readout, ...] = ("trace", "full", "pool", "scalar")
    """Which kernels."""
    x64: bool = False
    """Compute in float64."""
    gib: float = 6.0
    """Skip programs whose memory would exceed this, in GiB."""
    vector_products: bool = True
    """Time neural-tangents' NTK_VECTOR_PRODUCTS too, the slowest by far."""
    repeats: int = 3
    """Rounds; medians are printed."""


def main(config: Antk) -> None:
    """Print a table for each shape and readout."""
    jax.config.update("jax_enable_x64", config.x64)
    print(environment()["device"], "| float64" if config.x64 else "| float32")
    for num_sequences, num_tokens, width in config.shapes:
        for readout in config.readouts:
            print(f"N = {num_sequences}, S = {num_tokens}, d = {width}: {readout}")
            compiled, skipped = {}, []
            contestants = _contestants(
                num_sequences, num_tokens, width, readout, config.vector_products
            )
            for name, (function, arguments) in contestants.items():
                program = jax.jit(function).lower(*arguments).compile()
                if _bytes(program) > config.gib * 2**30:
                    skipped.append(name)
                    print(f"  {name:<28} needs {_bytes(program) / MIB:,.0f} MiB")
                else:
                    compiled[name] = program, arguments
            seconds = time_interleaved(
                {
                    name: functools.partial(program, *arguments)
                    for name, (program, arguments) in compiled.items()
                },
                repeats=config.repeats,
            )
            for name, (program, _) in compiled.items():
                print(
                    f"  {name:<28}{1e3 * seconds[name]:11.2f} ms "
                    f"{seconds[name] / seconds['closed form']:9.2f} ×"
                    f"{_bytes(program) / MIB:11.1f} MiB"
                )


def _contestants(
    num_sequences: int, num_tokens: int, width: int, readout: Readout, products: bool
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
    contestants: dict[str, tuple[Callable, tuple]] = {
        "closed form": (
            lambda params, x: attention_ntk(params, x, readout=closed).total,
            (params, x),
        ),
        "matrix-free K v": (ntk_vector_product(apply_fn), (params, values, x)),
        "nt jacobian_contraction": (
            empirical_ntk(apply_fn, trace_axes=trace_axes),
            (params, x),
        ),
    }
    if products:
        contestants["nt ntk_vector_products"] = (
            empirical_ntk(
                apply_fn, trace_axes=trace_axes, implementation="ntk_vector_products"
            ),
            (params, x),
        )
    return contestants


def _bytes(program) -> int:
    """Bytes of the results and intermediates of a compiled program."""
    memory = program.memory_analysis()
    return memory.output_size_in_bytes + memory.temp_size_in_bytes


if __name__ == "__main__":
    main(tyro.cli(Antk))
