"""Start training on several hosts."""

import os
import socket
import time

import jax

from attent_jax._checks import check_count

_WAIT_SECONDS = 300  # for the coordinator to be started


def initialize(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connect the processes of a training, one per host. Call it first in each.

    Afterwards `jax.devices()` lists the devices of all processes, and `make_mesh` uses
    them. On a TPU pod and under SLURM, Open MPI or Kubernetes the cluster is detected.
    Elsewhere pass the arguments, or set the environment variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Arguments take
    precedence over variables, and variables over what is detected. Training in one
    process does not need this call.

    Args:
      coordinator_address: "host:port" of process 0; the port must be free there.
      num_processes: number of processes of the whole training.
      process_id: number of this process, from 0.

    Raises:
      ValueError: if one of the three is neither passed, set nor detected, the address
        has no port, or process_id is not below num_processes.
      TypeError: if a number is not an integer.
      RuntimeError: if JAX is initialised or has computed something already, the port
        is in use on process 0, or process 0 does not answer within five minutes.

    Example:
      >>> import attent_jax
      >>> attent_jax.distributed.initialize(
      ...     coordinator_address="10.0.0.1:1234", num_processes=2, process_id=2)
      Traceback (most recent call last):
      ValueError: process_id must be below num_processes=2, got 2: number from 0.
    """
    # JAX itself reads the first of the three variables only.
    address = coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _number("num_processes", num_processes, minimum=1)
    process_id = _number("process_id", process_id, minimum=0)
    given = {
        "coordinator_address": address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if address is not None and not address.rpartition(":")[2].isdecimal():
        raise ValueError(
            f"coordinator_address must be 'host:port', got {address!r}: add a port "
            f"that is free on that host, e.g. '{address}:1234'."
        )
    if num_processes and process_id and process_id >= num_processes:
        raise ValueError(
            f"process_id must be below num_processes={num_processes}, got "
            f"{process_id}: number from 0."
        )
    if not jax.distributed.is_initialized() and address and process_id is not None:
        _check_coordinator(address, is_this=process_id == 0)
    try:
        jax.distributed.initialize(**given)
    except ValueError as error:
        missing = [name for name, value in given.items() if value is None]
        if not missing:
            raise
        raise ValueError(
            f"{', '.join(missing)} not given, and no cluster was detected: "
            f"pass {'it' if len(missing) == 1 else 'them'}, set "
            f"{', '.join('JAX_' + name.upper() for name in missing)}, or leave out "
            f"initialize to train in one process."
        ) from error


def _check_coordinator(address: str, *, is_this: bool) -> None:
    """Raise an error where JAX would abort the process."""
    host, _, port = address.rpartition(":")
    if is_this:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise RuntimeError(
                    f"coordinator_address={address!r}: port {port} is in use here "
                    f"({error.strerror}): choose another."
                ) from error
        return
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"coordinator_address={address!r} did not answer for "
                    f"{_WAIT_SECONDS} s ({error}): start process 0 there, or correct "
                    f"the address."
                ) from error
            time.sleep(0.2)


def _number(name: str, value: int | None, *, minimum: int) -> int | None:
    """The argument, or else the value of its variable, as an integer."""
    variable = "JAX_" + name.upper()
    if value is not None:
        return check_count(name, value, minimum=minimum)
    if variable not in os.environ:
        return None
    text = os.environ[variable]
    return check_count(
        variable, int(text) if text.isdecimal() else text, minimum=minimum
    )
