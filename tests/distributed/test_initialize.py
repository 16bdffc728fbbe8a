"""What start-up refuses by itself; test_processes.py starts up."""

import jax
import pytest

from attent_jax.distributed import initialize

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
