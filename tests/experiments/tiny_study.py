"""A study small enough to be killed and resumed many times."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attent_jax import distributed, selectors, teachers
from attent_jax.data import ArrayPool
from experiments.study import plots
from experiments.study.command import study_command
from experiments.study.methods import STANDARD_METHODS, Method
from experiments.study.options import RunOptions, StudyOptions
from experiments.study.study import Experiment, Preset, run_study
from experiments.study.workload import Objective, Split, Workload, measure_each

NUM_EXAMPLES, BATCH_SIZE, NUM_CLASSES = 400, 16, 3
NUM_EPOCHS = 3

RECOMMENDED = next(m for m in STANDARD_METHODS if m.name == "recommended")
SOFT = Method(
    "attent-soft",
    "method",
    lambda num_epochs, *, groups, mesh: teachers.attent(
        selectors.gumbel_top_k(mesh=mesh), 0.5, 2
    ),
    scores="pass",
)
METHODS = (SOFT, RECOMMENDED)


def examples(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(NUM_EXAMPLES, 4)).astype(np.float32)
    label = (x[:, 0] > 0.5) + (x[:, 1] > 0).astype(np.int32)
    return {"x": x, "label": label.astype(np.int32)}


def load(seed: int) -> Split:
    train = examples(seed)
    return Split(
        train=ArrayPool(train),
        held_out=ArrayPool(examples(100 + seed)),
        fingerprint=seed,
        groups=train["label"],
    )


def init_params(rng):
    w, v = jax.random.split(rng)
    return {
        "w": jax.random.normal(w, (4, 16)),
        "v": jax.random.normal(v, (16, NUM_CLASSES)),
    }


def logits(params, rng, batch):
    """A network of two layers, with dropout where there is a key."""
    hidden = jnp.tanh(batch["x"] @ params["w"])
    if rng is not None:
        rngs = jax.vmap(lambda row: jax.random.fold_in(rng, row))(
            jnp.arange(len(hidden))
        )
        kept = jax.vmap(lambda rng: jax.random.bernoulli(rng, 0.9, (16,)))(rngs)
        hidden = hidden * kept.astype(hidden.dtype)
    return hidden @ params["v"]


def loss_fn(params, rng, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, rng, batch), batch["label"]
    )


def is_correct(params, rng, batch):
    found = jnp.argmax(logits(params, rng, batch), axis=-1)
    return (found == batch["label"]).astype(jnp.float32)


def evaluate(params, held_out, sharding):
    correct = measure_each(
        is_correct, params, held_out, batch_size=NUM_EXAMPLES, sharding=sharding
    )
    return {"accuracy": 100 * float(correct.mean())}


WORKLOAD = Workload(
    name="tiny",
    load=load,
    num_examples=NUM_EXAMPLES,
    example={
        "x": jax.ShapeDtypeStruct((4,), np.float32),
        "label": jax.ShapeDtypeStruct((), np.int32),
    },
    init_params=init_params,
    loss_fn=loss_fn,
    make_optimizer=lambda num_steps, learning_rate: optax.adam(learning_rate),
    learning_rate=0.02,
    evaluate=evaluate,
    objective=Objective("accuracy", "%", margin=0.25),
    batch_size=BATCH_SIZE,
    score_batch_size=NUM_EXAMPLES,
    groups=("0", "1", "2"),
)


def poisoned(poisoned_id: int) -> Workload:
    """On one example the loss is not finite."""

    def load_with_poison(seed: int) -> Split:
        train = examples(seed)
        train["x"][poisoned_id] = np.nan
        return load(seed)._replace(train=ArrayPool(train))

    return WORKLOAD._replace(load=load_with_poison)


def experiment(workload: Workload) -> Experiment:
    return Experiment(
        name="tiny",
        title="Tiny",
        description="Tiny.",
        presets={"tiny": Preset("tiny", NUM_EPOCHS, "1", lambda: workload, 1.0, 3)},
        methods=METHODS,
    )


COMMAND = study_command(experiment(WORKLOAD), "Tiny.")


def run(
    folder: Path,
    *,
    checkpoint_seconds: float = 0.0,
    poisoned_id: int | None = None,
    max_skipped_steps: int = 10,
) -> int:
    """The study, begun or continued in `folder`."""
    workload = WORKLOAD if poisoned_id is None else poisoned(poisoned_id)
    options = RunOptions(
        out=folder,
        resume=True,
        checkpoint_every=checkpoint_seconds,
        max_skipped_steps=max_skipped_steps,
    )
    return run_study(experiment(workload), "tiny", StudyOptions(), options)


def in_own_process(
    folder: Path, cache: Path, cluster: Sequence[Any] | None = None, **options
) -> None:
    """As a person would run it, on one device; what is compiled is kept in `cache`.

    `cluster` is the coordinator's address, the number of processes, and this one's;
    None for what the launcher's environment says.
    """
    os.environ["XLA_FLAGS"] = ""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_disable_most_optimizations", True)
    plots.to_png = lambda figure: b""  # pictures take half of the time
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = (folder.parent / f"{folder.name}.output").open("a")
    os.dup2(output.fileno(), sys.stdout.fileno())
    os.dup2(output.fileno(), sys.stderr.fileno())
    if cluster is not None:
        address, num_processes, process_id = cluster
        distributed.initialize(
            coordinator_address=address,
            num_processes=num_processes,
            process_id=process_id,
        )
    sys.exit(run(folder, **options))
