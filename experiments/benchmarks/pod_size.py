"""Learners of a size that deserves a pod, to be compiled by `plan` and never run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attent_jax import distributed
from experiments.benchmarks.selective_step import SIZES, Size, make_learner
from experiments.study.study import Experiment, Preset
from experiments.study.workload import Objective, Split, Workload, warmup_cosine

NUM_EXAMPLES = 1_281_167
"""As many as ImageNet has."""
BATCH_SIZES = {"vit": 4096, "decoder": 512}


def _no_data(*_) -> Any:
    raise NotImplementedError("pod-size has no data: it is compiled and not run.")


@functools.cache
def make_workload(kind: str) -> Workload:
    """A ViT-B/16 at 224 pixels, or a decoder of 125 million parameters, length 1024.

    Parameters are float32 and split over all devices; the passes are in bfloat16, and
    the backward pass computes each block again.
    """
    size: Size = SIZES["accelerator", kind]
    init, loss_fn, example = make_learner(kind, size, remat=True)

    def load(seed: int) -> Split:
        return _no_data()

    def in_bfloat16(params, rng, batch):
        cast = jax.tree.map(lambda leaf: leaf.astype(size.dtype), params)
        return loss_fn(cast, rng, batch).astype(jnp.float32)

    return Workload(
        name=f"pod-size-{kind}",
        load=load,
        num_examples=NUM_EXAMPLES,
        example=example,
        init_params=init,
        loss_fn=in_bfloat16,
        make_optimizer=lambda num_steps, learning_rate: optax.adamw(
            warmup_cosine(num_steps, learning_rate)
        ),
        learning_rate=1e-3,
        evaluate=_no_data,
        objective=Objective("accuracy", "%", margin=0.5),
        batch_size=BATCH_SIZES[kind],
        score_batch_size=2 * BATCH_SIZES[kind],
        score_cost=1 / 4,  # of F + B, where B computes F again
        shardings=distributed.fsdp_shardings,
        fsdp=None,
    )


EXPERIMENT = Experiment(
    name="pod-size",
    title="Learners of a pod's size",
    description="No data: only compiled.",
    presets={
        kind: Preset(about, 90, "1", functools.partial(make_workload, kind))
        for kind, about in (
            ("vit", "ViT-B/16 at 224 pixels"),
            ("decoder", "a decoder of 125 million parameters"),
        )
    },
)
