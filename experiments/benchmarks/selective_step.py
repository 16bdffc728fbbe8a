"""Cost of a step that trains on a part of its batch, in two forward passes or one."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from attent_jax import models, selectors, training
from experiments.benchmarks.interleaved import store, time_interleaved
from experiments.study.workdir import environment


class Size(NamedTuple):
    """A model and its batch."""

    width: int
    num_layers: int
    num_heads: int
    length: int
    """Tokens per sequence or image."""
    batch_size: int
    dtype: Any


SIZES = {
    ("laptop", "vit"): Size(128, 4, 4, 64, 32, jnp.float32),
    ("laptop", "decoder"): Size(128, 4, 4, 128, 16, jnp.float32),
    ("accelerator", "vit"): Size(768, 12, 12, 196, 256, jnp.bfloat16),
    ("accelerator", "decoder"): Size(768, 12, 12, 1024, 32, jnp.bfloat16),
}
NUM_CLASSES, VOCABULARY_SIZE, PATCH_SIZE = 1000, 32_768, 16
SMALL_VOCABULARY_SIZE = 512
RATIOS = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class SelectiveStep:
    """Time, FLOPs and memory of full and selective steps, in ratios to the full step.

    A full step trains on the batch. A selective step trains on a share r of it, in two
    forward passes or with the forward pass re-used. By the cost model they cost 1,
    (1 + 3r) / 3 and (1 + 2r) / 3. With rematerialisation (remat), where the backward
    pass computes the blocks again, they cost 1, (1 + 4r) / 4 and (1 + 3r) / 4.
    "accelerator" is ViT-B/16 at 224 pixels, batch 256, and a decoder of 125 million
    parameters, length 1024, in bfloat16; there the full step's rate is compared
    with the rate of a large matrix product on the same device.
    """

    preset: Literal["laptop", "accelerator"] = "laptop"
    """Which sizes."""
    repeats: int = 10
    """Rounds; medians are printed."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Append the rows to this file, as JSON lines that name the machine."""


def make_learner(kind: str, size: Size, remat: bool):
    """`init(rng)`, loss function, and an abstract example."""
    if kind == "vit":
        side = PATCH_SIZE * int(size.length**0.5)
        model = models.VisionTransformer(
            num_classes=NUM_CLASSES,
            patch_size=PATCH_SIZE,
            width=size.width,
            num_layers=size.num_layers,
            num_heads=size.num_heads,
            remat=remat,
        )
        inputs = jax.ShapeDtypeStruct((side, side, 3), size.dtype)
        example = (inputs, jax.ShapeDtypeStruct((), jnp.int32))
    else:
        config = models.DecoderConfig(
            vocabulary_size_of(size),
            width=size.width,
            num_layers=size.num_layers,
            num_heads=size.num_heads,
            num_kv_heads=size.num_heads,
            head_width=size.width // size.num_heads,
            mlp_width=size.width * 8 // 3,  # of three matrices: as many as 4 of two
            tie_embeddings=True,
        )
        model = models.Decoder(config, remat=remat)
        inputs = example = jax.ShapeDtypeStruct((size.length,), jnp.int32)

    def init(rng):
        return model.init(rng, jnp.zeros((1, *inputs.shape), inputs.dtype))

    def loss_fn(params, rng, batch):
        if kind == "vit":
            images, labels = batch
            logits = cast(jax.Array, model.apply(params, images))
            return optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32), labels
            )
        logits = cast(jax.Array, model.apply(params, batch))[:, :-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), batch[:, 1:]
        )
        return jnp.mean(losses, axis=-1)

    return init, loss_fn, example


def vocabulary_size_of(size: Size) -> int:
    """Of a decoder."""
    return VOCABULARY_SIZE if size.width >= 512 else SMALL_VOCABULARY_SIZE


def build(kind: str, size: Size, remat: bool):
    """Loss function, parameters and batch."""
    init, loss_fn, example = make_learner(kind, size, remat)
    draw = np.random.default_rng(0)
    num_values = NUM_CLASSES if kind == "vit" else vocabulary_size_of(size)

    def of_batch(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        shape = (size.batch_size, *leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(draw.integers(num_values, size=shape), leaf.dtype)
        return jnp.asarray(draw.normal(size=shape), leaf.dtype)

    params = jax.jit(init)(jax.random.key(0))
    batch = jax.tree.map(of_batch, example)
    return loss_fn, jax.tree.map(lambda leaf: leaf.astype(size.dtype), params), batch


def measure(kind: str, size: Size, remat: bool, repeats: int) -> list[dict[str, Any]]:
    """A row for each kind of step."""
    loss_fn, params, batch = build(kind, size, remat)
    optimizer = optax.sgd(1e-3)
    state = training.init_train_state(params, optimizer)
    weights = jnp.ones(size.batch_size)
    ways: dict[tuple[str, float], Any] = {
        ("full", 1.0): training.make_train_step(loss_fn, optimizer)
    }
    for ratio in RATIOS:
        for way in ("two passes", "re-use"):
            ways[way, ratio] = training.make_selective_train_step(
                loss_fn,
                optimizer,
                selectors.top_k(),
                num_selected=int(ratio * size.batch_size),
                reuse_forward=way == "re-use",
            )
    compiled = {
        name: way.lower(state, None, batch, weights).compile()
        for name, way in ways.items()
    }
    seconds = time_interleaved(
        {
            f"{way} {ratio}": lambda step=step: step(state, None, batch, weights)
            for (way, ratio), step in compiled.items()
        },
        repeats=repeats,
    )
    rows = []
    for (way, ratio), step in compiled.items():
        memory = step.memory_analysis()
        rows.append(
            {
                "model": kind,
                "remat": remat,
                "way": way,
                "ratio": ratio,
                "seconds": seconds[f"{way} {ratio}"],
                "flops": step.cost_analysis()["flops"],
                "peak_bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes,
                "predicted": predicted(way, ratio, backward=3 if remat else 2),
            }
        )
    for row in rows:
        for name in ("seconds", "flops", "peak_bytes"):
            row[f"{name}_of_full"] = row[name] / rows[0][name]
    return rows


def predicted(way: str, ratio: float, backward: float) -> float:
    """The cost model's share of a full step; backward is in forward passes."""
    full = 1 + backward
    taught = ratio * (backward if way == "re-use" else full)
    return 1.0 if way == "full" else (1 + taught) / full


def matrix_rate(dtype: Any, width: int) -> float:
    """FLOP per second of a large square matrix product."""
    matrix = jnp.ones((width, width), dtype)
    product = jax.jit(lambda a: a @ a)
    seconds = time_interleaved({"product": lambda: product(matrix)}, repeats=20)
    return 2 * width**3 / seconds["product"]


def main(config: SelectiveStep) -> None:
    """Print a row for each kind of step; store them if asked to."""
    print(environment()["device"], "| of the full step:")
    print("model    remat  way         r     time  FLOPs  (predicted)  memory")
    for kind in ("vit", "decoder"):
        size = SIZES[config.preset, kind]
        for remat in (False, True):
            rows = measure(kind, size, remat, config.repeats)
            for row in rows:
                print(
                    f"{kind:<8} {remat!s:<6} {row['way']:<10} {row['ratio']:.2f}  "
                    f"{row['seconds_of_full']:6.3f} {row['flops_of_full']:6.3f}  "
                    f"({row['predicted']:.3f})      {row['peak_bytes_of_full']:6.2f}"
                )
            rate = rows[0]["flops"] / rows[0]["seconds"]
            top = matrix_rate(size.dtype, 8192 if size.width >= 512 else 1024)
            print(
                f"  full step {1e3 * rows[0]['seconds']:.1f} ms, {rate / 1e9:,.0f} "
                f"GFLOP/s: {rate / top:.0%} of a matrix product's"
            )
            store(config.out, "selective_step", config, rows)


if __name__ == "__main__":
    main(
        tyro.cli(SelectiveStep, prog="python -m experiments.benchmarks.selective_step")
    )
