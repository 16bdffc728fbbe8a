"""A study small enough to be killed and resumed many times."""

import functools
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attent_jax import distributed, scores, selectors, teachers, training
from attent_jax.data import ArrayPool
from experiments.budgets import Method
from experiments.loop import Learner
from experiments.study import Study, Task
from experiments.workdir import Run

NUM_EXAMPLES, BATCH_SIZE, NUM_CLASSES = 400, 8, 3
NUM_SEEDS, NUM_EPOCHS = 1, 3

METHODS = [
    Method(
        "attent-soft",
        lambda num_epochs: teachers.attent(selectors.gumbel_top_k(), 0.5, 2),
        scores_by_pass=True,
    ),
    Method("recommended", teachers.recommended),
]


def examples(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(NUM_EXAMPLES, 4)).astype(np.float32)
    return {"x": x, "label": (x[:, 0] > 0.5) + (x[:, 1] > 0).astype(np.int32)}


def load(seed: int) -> Task:
    train = examples(seed)
    return Task(
        pool=ArrayPool(train),
        held_out=ArrayPool(examples(100 + seed)),
        labels=train["label"],
        methods=METHODS,
    )


def make_learner(poisoned_id: int | None = None) -> Learner:
    """A network of two layers; on one poisoned example its loss is not finite."""
    optimizer = optax.adam(0.02)

    def logits(params, x):
        return jnp.tanh(x @ params["w"]) @ params["v"]

    def loss_fn(params, rng, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits(params, batch["x"]), batch["label"]
        )
        if poisoned_id is None:
            return losses
        is_poison = jnp.all(batch["x"] == examples(0)["x"][poisoned_id], axis=-1)
        return jnp.where(is_poison, jnp.nan, losses)

    def is_correct(params, rng, batch):
        found = jnp.argmax(logits(params, batch["x"]), axis=-1)
        return (found == batch["label"]).astype(jnp.float32)

    def init(seed, num_steps):
        w, v = jax.random.split(jax.random.key(seed))
        params = {
            "w": jax.random.normal(w, (4, 16)),
            "v": jax.random.normal(v, (16, NUM_CLASSES)),
        }
        return training.init_train_state(params, optimizer)

    train_step = training.make_train_step(loss_fn, optimizer)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(state, table, batch, ids, weights):
        state, info = train_step(state, None, batch, weights)
        return state, table.update(ids, info.losses, weights), info

    def evaluate(params, held_out, sharding):
        correct = training.score_pool(is_correct, params, held_out, sharding=sharding)
        return {"quality": 100 * float(jnp.mean(correct))}

    return Learner(
        init=init,
        train_step=step,
        score_fn=scores.loss(loss_fn),
        evaluate=evaluate,
        batch_size=BATCH_SIZE,
        score_batch_size=NUM_EXAMPLES,
        step_flops=1.0,
        score_flops=1.0,
    )


def run(
    folder: Path,
    *,
    checkpoint_seconds: float = 0.0,
    poisoned_id: int | None = None,
    max_skipped_steps: int = 10,
) -> int:
    """The study, begun or gone on with in `folder`."""
    study = Study(
        run=Run("tiny", folder, config={"seeds": NUM_SEEDS}, resume=True),
        title="Tiny",
        description="Tiny.",
        config={},
        classes=[str(label) for label in range(NUM_CLASSES)],
        margin=0.25,
        checkpoint_seconds=checkpoint_seconds,
        max_skipped_steps=max_skipped_steps,
    )
    budgets = {method.name: float(NUM_EPOCHS * NUM_EXAMPLES) for method in METHODS}
    return study.execute(
        lambda: make_learner(poisoned_id), load, budgets, num_seeds=NUM_SEEDS
    )


def in_own_process(
    folder: Path, cache: Path, cluster: tuple[str, int, int] | None = None, **options
) -> None:
    """As a person would run it, on one device; what is compiled is kept in `cache`.

    `cluster` is the coordinator's address, the number of processes, and this one's.
    """
    os.environ["XLA_FLAGS"] = ""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
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
