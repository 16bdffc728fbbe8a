"""Devices that a program is compiled for: described TPUs, CPUs, this machine's."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

GIB = 2**30


class Chip(NamedTuple):
    """A kind of TPU chip."""

    memory: int
    """In GiB."""
    config: str = "default"
    """The name of the configuration in which a chip is one device."""


CHIPS = {"v4": Chip(32, "megacore"), "v5e": Chip(16), "v5p": Chip(95), "v6e": Chip(32)}


class TopologyError(ValueError):
    """The devices that were asked for cannot be described."""


class Devices(NamedTuple):
    """Devices of one kind."""

    name: str
    devices: Sequence[Any]
    memory: int | None
    """Bytes of one device; None: unknown."""


def check_topology(topology: str) -> Chip:
    """The chip that a topology such as "v5e:4x4" is made of."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise TopologyError(
            f"topology must be a chip and a shape, such as v5e:4x4 or v4:2x2x2, with "
            f"one of the chips {', '.join(CHIPS)}, got {topology!r}."
        )
    return CHIPS[kind]


def described(topology: str) -> Devices:
    """The TPUs of a topology; this machine needs none.

    Raises:
      TopologyError: for a topology that does not exist, and where the TPU's compiler is
        not installed or is in use.
    """
    chip = check_topology(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(
            f"topology={topology} needs the TPU's compiler, which is not installed: "
            f"run `make pod-check` once and use .venv-tpu/bin/python, or install the "
            f"extra `tpu`."
        )
    # The compiler is to ask no metadata server and to print no warnings about that.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_MIN_LOG_LEVEL": "3",
        "TPU_STDERR_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chip_config_name=chip.config
        )
    except jax.errors.JaxRuntimeError as error:
        message = str(error).splitlines()[0]
        remedy = "choose a shape that exists, such as 2x2, 4x4 or 2x2x2"
        if "lock" in message or "in use" in message:
            remedy = (
                "wait until no other process uses it; if none does, remove "
                "/tmp/libtpu_lockfile"
            )
        raise TopologyError(f"topology={topology}: {message}: {remedy}.") from None
    return Devices(topology, description.devices, chip.memory * GIB)


def cpus(count: int) -> Devices:
    """This machine's CPU as that many devices; must be called before any is used."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return Devices(f"{count} × cpu", jax.devices()[:count], None)


def this_machine() -> Devices:
    """The devices that are here, of all processes."""
    devices = jax.devices()
    statistics = jax.local_devices()[0].memory_stats() or {}
    name = f"{len(devices)} × {devices[0].device_kind}"
    return Devices(name, devices, statistics.get("bytes_limit"))
