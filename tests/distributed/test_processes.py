"""Several processes train as one does."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.process_worker import BATCH_SIZE, VARIABLES, taught

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 120
PROGRAM = [sys.executable, "-W", "error", "-m", "tests.distributed.process_worker"]
# (processes, devices of each, whether environment variables name them)
LAYOUTS = [(2, 2, True), (4, 1, False)]


def free_ports(num_ports: int) -> list[int]:
    """Held together while they are looked for, so that no two are the same."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(num_ports)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


def started(
    folder: Path, port: int, layout: tuple[int, int, bool]
) -> list[subprocess.Popen]:
    """The processes of one training, each writing what it found to `folder`."""
    num_processes, num_devices, by_variables = layout
    address = f"localhost:{port}"
    processes = []
    for process_id in range(num_processes):
        values = (address, num_processes, process_id)
        variables, arguments = {}, {}
        if by_variables:
            for name, value in zip(VARIABLES, values, strict=True):
                variables[f"JAX_{name}"] = str(value)
        else:
            for name, value in zip(VARIABLES, values, strict=True):
                arguments[name.lower()] = value
        out = folder / f"{num_processes}-{process_id}.npz"
        flags = os.environ["XLA_FLAGS"]  # of the same two flags the last counts
        flags += f" --xla_force_host_platform_device_count={num_devices}"
        with (out.with_suffix(".log")).open("w") as log:
            processes.append(
                subprocess.Popen(
                    [*PROGRAM, str(out), json.dumps(arguments)],
                    cwd=ROOT,
                    env=os.environ | {"XLA_FLAGS": flags} | variables,
                    stdout=log,
                    stderr=log,
                )
            )
    return processes


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[int, list]:
    """What each process found, by the number of processes; both at once."""
    folder = tmp_path_factory.mktemp("processes")
    processes = []
    for port, layout in zip(free_ports(len(LAYOUTS)), LAYOUTS, strict=True):
        processes.extend(started(folder, port, layout))
    limit = time.monotonic() + TIME_LIMIT
    try:
        while any(one.poll() is None for one in processes):
            # Without the one that failed the others would wait for it.
            if any(one.poll() for one in processes) or time.monotonic() > limit:
                break
            time.sleep(0.05)
    finally:
        for one in processes:
            one.kill()
            one.wait()
    if any(one.returncode for one in processes):
        logs = sorted(folder.glob("*.log"))
        pytest.fail("\n".join(f"{log.stem}: {log.read_text()}" for log in logs))
    return {
        num: [dict(np.load(folder / f"{num}-{i}.npz")) for i in range(num)]
        for num, _, _ in LAYOUTS
    }


@pytest.fixture(scope="module")
def expected():
    return taught(None)


every_number = pytest.mark.parametrize("num", [num for num, _, _ in LAYOUTS])


@every_number
def test_every_process_selects_and_learns_what_one_alone_does(found, expected, num):
    for one in found[num]:
        for name in ("indices", "num_selected", "ids", "even_ids"):
            np.testing.assert_array_equal(one[name], expected[name])
        for name in ("scores", "even_scores", "table", "w"):
            np.testing.assert_allclose(one[name], expected[name], atol=1e-6, rtol=1e-6)


@every_number
def test_each_row_of_a_batch_is_read_by_one_process(found, expected, num):
    rows = [one["rows"].tolist() for one in found[num]]
    assert sorted(itertools.chain(*rows)) == list(range(BATCH_SIZE))
    if num == 2:  # the devices are interleaved
        assert rows == [[0, 1, 4, 5], [2, 3, 6, 7]]
    for one in found[num]:
        np.testing.assert_array_equal(one["taken"], expected["ids"][:, one["rows"]])


@every_number
def test_initialize_says_what_is_missing(found, num):
    for one in found[num]:
        assert "coordinator_address, num_processes, process_id not given" in str(
            one["nothing"]
        )
        assert str(one["half"]).startswith("coordinator_address, process_id not given")
        assert "must be called before" in str(one["late"])
