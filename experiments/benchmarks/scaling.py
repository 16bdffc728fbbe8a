"""Time and communication of steps and selections on 1, 2, 4 and 8 devices."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from attent_jax import distributed, selectors, training
from experiments.benchmarks.interleaved import store, time_interleaved
from experiments.benchmarks.selective_step import Size, build
from experiments.plan.compiled_facts import collectives_of
from experiments.study.workdir import environment

SIZE = Size(128, 4, 4, 64, 64, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Time a decoder's step, and selection from a large pool, on more and more devices.

    The step with its state replicated, and split over the devices (fully sharded); the
    selection of half of the pool by `selectors.top_k`. Bytes are those that a device's
    collectives produce, from the compiled program; a loop's body counts once. Where
    there is no accelerator, eight virtual devices share the cores. Their times then
    measure what splitting costs, not what it gains.
    """

    pool_size: int = 1_000_000
    """Scores to select from."""
    repeats: int = 10
    """Rounds; medians are printed."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Append the rows to this file, as JSON lines that name the machine."""


def bytes_moved(program: str) -> int:
    """Bytes that the collectives of a compiled program produce on one device."""
    return sum(kind.bytes for kind in collectives_of(program).values())


def measure(num_devices: int, config: Scaling) -> dict[str, Any]:
    """The programs for a number of devices, and the bytes that they move."""
    devices = jax.devices()[:num_devices]
    loss_fn, params, batch = build("decoder", SIZE, remat=False)
    optimizer = optax.adam(1e-3)
    train_step = training.make_train_step(loss_fn, optimizer)
    contestants, moved = {}, {}
    for name, fsdp in (("step, replicated", 1), ("step, fully sharded", num_devices)):
        mesh = distributed.make_mesh(fsdp=fsdp, devices=devices)
        state = training.init_train_state(params, optimizer)
        state = distributed.put(state, distributed.fsdp_shardings(mesh, state))
        placed, weights = distributed.put(
            (batch, np.ones(SIZE.batch_size, np.float32)),
            distributed.batch_sharding(mesh),
        )
        arguments = (state, None, placed, weights)
        step = jax.jit(train_step).lower(*arguments).compile()
        contestants[name] = lambda step=step, arguments=arguments: step(*arguments)
        moved[name] = bytes_moved(step.as_text() or "")
    mesh = distributed.make_mesh(devices=devices)
    draw = np.random.default_rng(0)
    size = config.pool_size - config.pool_size % num_devices
    scores = distributed.put(
        draw.normal(size=size).astype(np.float32), distributed.batch_sharding(mesh)
    )
    select = selectors.top_k(mesh=None if num_devices == 1 else mesh)
    rng, count = jax.random.key(0), size // 2
    selection = jax.jit(lambda scores: select(rng, scores, count))
    selection = selection.lower(scores).compile()
    contestants["selection"] = lambda: selection(scores)
    moved["selection"] = bytes_moved(selection.as_text() or "")
    return {"contestants": contestants, "moved": moved}


def main(config: Scaling) -> None:
    """Print a row for each program and number of devices; store them if asked to."""
    counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    measured = {n: measure(n, config) for n in counts}
    seconds = time_interleaved(
        {
            f"{name}|{n}": contestant
            for n, programs in measured.items()
            for name, contestant in programs["contestants"].items()
        },
        repeats=config.repeats,
    )
    print(environment()["device"])
    print(f"{'':<20} devices        ms  of one device's   MB moved a device")
    rows = []
    for name in measured[counts[0]]["contestants"]:
        for n in counts:
            row = {
                "program": name,
                "devices": n,
                "seconds": seconds[f"{name}|{n}"],
                "of_one_device": seconds[f"{name}|{n}"] / seconds[f"{name}|1"],
                "bytes_moved": measured[n]["moved"][name],
            }
            rows.append(row)
            print(
                f"{name:<20} {n:7d} {1e3 * row['seconds']:9.2f}  "
                f"{row['of_one_device']:15.2f}   {row['bytes_moved'] / 1e6:17.3f}"
            )
    store(config.out, "scaling", config, rows)


if __name__ == "__main__":
    # Without an accelerator, the CPU acts as eight devices.
    jax.config.update("jax_num_cpu_devices", 8)
    main(tyro.cli(Scaling))
