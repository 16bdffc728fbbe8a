"""Processes that are killed while they save, or that save together."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.checkpointing.saved_runs import (
    assert_same,
    checkpointer,
    mesh,
    placed,
    restored,
)

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "",
}


@contextmanager
def running(program, *arguments) -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | SETTINGS,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


KILLED = """
import pathlib, sys, numpy as np
from attent_jax.checkpointing import Checkpointer

state = np.random.default_rng(0).integers(0, 2**32, 5_000_000, np.uint32)
checkpointer = Checkpointer(sys.argv[1], state, identity={}, keep_last=1)
for step in range(2):
    checkpointer.restore()
    checkpointer.save(step, state, quality=-step)
    print(checkpointer.steps())
checkpointer.save(2, state)
while not any(pathlib.Path(sys.argv[1]).glob("2*")):
    pass
print("saving", flush=True)
checkpointer.wait()
"""


def test_a_killed_save_leaves_nothing_behind(tmp_path):
    with running(KILLED, tmp_path) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.kill()
        errors = process.stderr.read()
    assert (lines[-2:], errors) == (["[0, 1]\n", "saving\n"], "")  # and no log lines
    names = {path.name for path in tmp_path.iterdir()}
    assert {"0", "1"} < names  # the third was under way
    state = np.random.default_rng(0).integers(0, 2**32, 5_000_000, np.uint32)
    with checkpointer(tmp_path, state, identity={}, keep_last=1) as writer:
        assert writer.steps() == [0, 1]
        assert_same(writer.restore().state, state)  # pyright: ignore
        writer.save(3, state)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "3"}


ONE_OF_TWO = """
import sys, jax
folder, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from attent_jax.checkpointing import Checkpointer

mesh = jax.make_mesh((2,), ("data",))
words = np.arange(12.0, dtype=np.float32).reshape(4, 3)
def over_both(*spec):
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.make_array_from_callback(words.shape, sharding, lambda i: words[i])

state = {"split": over_both("data"), "copies": over_both(), "own": jax.random.key(3),
         "numpy": words.astype(float), "number": 5}
with Checkpointer(folder, state, identity={"seed": 0}) as checkpointer:
    try:
        checkpointer.save(1, state | {"number": index})
    except ValueError as error:
        print(error)
    checkpointer.save(1, state, {"epoch": 1}, quality=0.5)
    checkpointer.save(2, state, {"epoch": 2}, quality=0.4)
    step, found, position = checkpointer.restore()
    for name in ("split", "copies"):
        assert found[name].sharding == state[name].sharding, name
        for shard in found[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, words[shard.index])
    np.testing.assert_array_equal(found["numpy"], words)
    assert found["own"] == state["own"]
    print(step, position, found["number"])
"""


def test_two_processes_save_what_one_restores(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with (
        running(ONE_OF_TWO, tmp_path, port, 0) as first,
        running(ONE_OF_TWO, tmp_path, port, 1) as second,
    ):
        for process in first, second:
            output, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
            assert output.splitlines()[-2:] == [
                "state['number'] differs between processes: make it the same on all, "
                "or one array over the devices of all.",
                "2 {'epoch': 2} 5",
            ]
    words = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    state = {
        "split": placed(words, mesh(2), None, None),
        "copies": words,
        "numpy": words.astype(float),
        "own": jax.random.key(3),
        "number": 5,
    }
    _, found, _ = restored(tmp_path, state, identity={"seed": 0})
    assert_same(found, state)
