"""One process of a training on several; test_processes.py starts them.

The same training without a mesh, in one process, is what theirs must equal.
"""

import json
import os
import sys
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from attent_jax import data, distributed, schedules, scores, selectors, teachers
from attent_jax.data import ArrayPool
from attent_jax.training import init_train_state, make_train_step, score_pool
from tests.distributed.recording_pool import RecordingPool
from tests.families import examples, learner, loss_fn

POOL_SIZE, BATCH_SIZE, NUM_EPOCHS, TEMPERATURE = 41, 8, 5, 0.7
EVEN_POOL_SIZE = 40
VARIABLES = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


def taught(mesh: Mesh | None) -> dict[str, Any]:
    """Every selection of a short training, the last scores and the learner."""
    pool = RecordingPool(examples(POOL_SIZE))
    optimizer = optax.adam(0.02, eps=1e-2)
    state = init_train_state(learner(), optimizer)
    if mesh is None:
        select, sharding = selectors.gumbel_top_k(TEMPERATURE), None
        place, gather = (lambda tree: tree), jax.device_get
    else:
        select = selectors.gumbel_top_k(TEMPERATURE, mesh=mesh)
        sharding = distributed.batch_sharding(mesh)
        everywhere = distributed.replicated(mesh)
        layout = distributed.fsdp_shardings(mesh, state, min_size=1)
        state = distributed.put(state, layout)
        assert not state.params["w"].sharding.is_fully_replicated
        place = partial(distributed.put, shardings=everywhere)
        gather = jax.jit(lambda tree: tree, out_shardings=everywhere)
    teacher = teachers.attent(select, schedules.linear(0.3, 0.8, NUM_EPOCHS))
    teaching, table, pool_scores, key = place(
        (
            teacher.init(POOL_SIZE),
            scores.ScoreTable.init(POOL_SIZE),
            jnp.zeros(POOL_SIZE),
            jax.random.key(7),
        )
    )
    score_fn, train_step = scores.loss(loss_fn), make_train_step(loss_fn, optimizer)
    selections, ids_of_steps, taken = [], [], []
    for epoch in range(NUM_EPOCHS):
        if teacher.needs_scores(teaching):
            pool_scores = score_pool(
                score_fn, state.params, pool, batch_size=10, sharding=sharding
            )
        rng = jax.random.fold_in(key, epoch)
        teaching, _ = teacher.update(rng, teaching, pool_scores)
        selections.append(jax.device_get(teaching.selection))
        pool.taken.clear()
        batches = data.epoch_batches(
            pool, teaching.selection, BATCH_SIZE, seed=epoch, sharding=sharding
        )
        for ids, batch, weights in batches:
            state, info = train_step(state, None, batch, weights)
            table = table.update(ids, info.losses, weights)
            ids_of_steps.append(ids)
        taken.extend(pool.taken)
    # Replicated above, as 41 scores have no equal parts; these are split.
    even = score_pool(
        score_fn,
        state.params,
        ArrayPool(examples(EVEN_POOL_SIZE)),
        batch_size=10,
        sharding=sharding,
    )
    assert even.is_fully_addressable == (jax.process_count() == 1)
    even_selection = select(jax.random.key(8), even, 9)
    split_batches = data.epoch_batches(
        ArrayPool(np.arange(EVEN_POOL_SIZE)), even_selection, BATCH_SIZE, seed=0
    )
    return {
        "even_scores": np.asarray(gather(even)),
        "even_ids": np.stack([batch.ids for batch in split_batches]),
        "indices": np.stack([selection.indices for selection in selections]),
        "num_selected": np.stack([selection.num_selected for selection in selections]),
        "ids": np.stack(ids_of_steps),
        "taken": np.array(taken),
        "scores": jax.device_get(pool_scores),
        "table": jax.device_get(table.scores),
        "w": np.asarray(gather(state.params)["w"]),
    }


def refusal(**arguments: Any) -> str:
    try:
        distributed.initialize(**arguments)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "none"


def main(out: str, arguments: str) -> None:
    names = [f"JAX_{name}" for name in VARIABLES if f"JAX_{name}" in os.environ]
    environ = {name: os.environ.pop(name) for name in names}
    refused = {"nothing": refusal(), "half": refusal(num_processes=2)}
    os.environ.update(environ)
    distributed.initialize(**json.loads(arguments))
    # Interleaved, so that no process with two devices has neighbouring rows.
    devices = jax.devices()[::2] + jax.devices()[1::2]
    mesh = distributed.make_mesh(fsdp=2, devices=devices)
    rows = distributed.local_rows(distributed.batch_sharding(mesh), BATCH_SIZE)
    result = taught(mesh)
    refused["late"] = refusal()
    np.savez(out, rows=rows, **result, **cast(Any, refused))


if __name__ == "__main__":
    main(*sys.argv[1:])
