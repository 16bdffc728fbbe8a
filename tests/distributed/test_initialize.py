"""What start-up refuses by itself; test_processes.py starts up."""

import socket

import jax
import pytest

from attent_jax.distributed import _initialize, initialize

ADDRESS = "localhost:1234"
CASES = {
    "no port": (
        {"coordinator_address": "10.0.0.1"},
        {},
        "coordinator_address must be 'host:port', got '10.0.0.1': add a port",
    ),
    "no such process": (
        {"coordinator_address": ADDRESS, "num_processes": 2, "process_id": 2},
        {},
        "process_id must be below num_processes=2, got 2: number from 0",
    ),
    "no processes": ({"num_processes": 0}, {}, "num_processes must be at least 1"),
    "a number in words": (
        {"num_processes": "2"},
        {},
        "num_processes must be an integer, got '2' of type str: pass",
    ),
    "a variable in words": (
        {},
        {"JAX_NUM_PROCESSES": "two"},
        "JAX_NUM_PROCESSES must be an integer, got 'two' of type str: pass",
    ),
    "a variable that does not fit": (
        {"num_processes": 4},
        {"JAX_PROCESS_ID": "4"},
        "process_id must be below num_processes=4, got 4",
    ),
    "an argument before its variable": (
        {"num_processes": 4, "process_id": 3},
        {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "localhost"},
        "coordinator_address must be 'host:port', got 'localhost'",
    ),
}


@pytest.mark.parametrize(
    ("arguments", "variables", "message"), CASES.values(), ids=CASES.keys()
)
def test_error_names_argument_value_and_remedy(
    monkeypatch, arguments, variables, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ValueError, TypeError), match=message):
        initialize(**arguments)


def test_it_is_too_late_once_devices_are_known():
    assert jax.devices()
    with pytest.raises(RuntimeError, match="must be called before any JAX calls"):
        initialize(coordinator_address=ADDRESS, num_processes=1, process_id=0)


def test_a_port_in_use_is_told_by_process_0():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"port {port} is in use here"):
            initialize(
                coordinator_address=f"localhost:{port}", num_processes=2, process_id=0
            )


def test_a_coordinator_that_does_not_answer_is_told_by_the_others(monkeypatch):
    monkeypatch.setattr(_initialize, "_WAIT_SECONDS", 0.3)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    with pytest.raises(RuntimeError, match=f"'localhost:{port}' did not answer"):
        initialize(
            coordinator_address=f"localhost:{port}", num_processes=2, process_id=1
        )
