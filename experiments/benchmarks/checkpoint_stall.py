"""How long training waits for a checkpoint."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Annotated, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from attent_jax import training
from attent_jax.checkpointing import Checkpointer
from experiments.benchmarks.interleaved import store
from experiments.benchmarks.selective_step import Size, build
from experiments.study.workdir import environment

SIZE = Size(256, 6, 4, 64, 16, jnp.float32)


@dataclasses.dataclass(frozen=True)
class CheckpointStall:
    """Train a decoder with Adam, with and without a checkpoint, in turn.

    A save returns when the state is copied. Writing in the background may still slow
    the steps down. Both are part of the extra time that a block of steps with one save
    takes. The last line gives its share if a checkpoint is saved each minute.
    """

    steps: int = 40
    """Steps in a block; enough for a save to be written within one."""
    repeats: int = 7
    """Blocks of each kind, in turn."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Append the row to this file, as a JSON line that names the machine."""


def main(config: CheckpointStall) -> None:
    """Print what a save costs, and store it if asked to."""
    loss_fn, params, batch = build("decoder", SIZE, remat=False)
    optimizer = optax.adam(1e-3)
    train_step = jax.jit(training.make_train_step(loss_fn, optimizer), donate_argnums=0)
    state = training.init_train_state(params, optimizer)
    weights = jnp.ones(SIZE.batch_size)
    state, _ = train_step(state, None, batch, weights)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpointer(folder, state, identity={}) as checkpointer,
    ):
        checkpointer.save(0, state)  # compiles the checksums
        checkpointer.wait()
        blocks: dict[bool, list[float]] = {False: [], True: []}
        blocked = []
        for _ in range(config.repeats):
            for with_save in (False, True):
                start = time.perf_counter()
                for step in range(config.steps):
                    state, _ = train_step(state, None, batch, weights)
                    if with_save and step == 0:
                        jax.block_until_ready(state)
                        before = time.perf_counter()
                        checkpointer.save(int(state.step), state)
                        blocked.append(time.perf_counter() - before)
                jax.block_until_ready(state)
                blocks[with_save].append(time.perf_counter() - start)
                checkpointer.wait()
    without = np.array(blocks[False])
    extra = float(np.median(np.array(blocks[True]) - without))
    row = {
        "state_bytes": num_bytes,
        "step_seconds": float(np.median(without)) / config.steps,
        "save_blocks_seconds": float(np.median(blocked)),
        "save_costs_seconds": extra,
        "share_at_one_a_minute": extra / 60,
    }
    print(environment()["device"], f"| state {num_bytes / 1e6:.0f} MB")
    print(f"  a step takes        {1e3 * row['step_seconds']:8.1f} ms")
    print(f"  a save blocks for   {1e3 * row['save_blocks_seconds']:8.1f} ms")
    print(f"  and costs in all    {1e3 * extra:8.1f} ms, with the steps it slows down")
    print(f"  one a minute: {extra / 60:.2%} of the training")
    store(config.out, "checkpoint_stall", config, [cast(dict, row)])


if __name__ == "__main__":
    main(tyro.cli(CheckpointStall))
