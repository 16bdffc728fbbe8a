"""What the programs of a workload need, as a table and in sentences."""

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.plan.described_devices import Devices, TopologyError
from experiments.plan.rows import TRAIN_STEP, Row, plan_workload
from experiments.study.study import Experiment, make_mesh
from experiments.study.workdir import as_json_line, environment

LOOPS = 0.95
"""Work below which FLOPs were not counted in full."""
TOLERANCE = 1.05
"""Work of all devices relative to one device's, above which it is not divided."""


def run_plan(
    experiment: Experiment,
    preset_name: str,
    devices: Devices,
    out: Path | None = None,
) -> int:
    """Compile for the devices and print what it needs; returns the exit status.

    Args:
      experiment: its methods' steps are compiled.
      preset_name: one of its presets.
      devices: described ones, or this machine's.
      out: append the rows to this file.
    """
    preset = experiment.presets[preset_name]
    workload, num_devices = preset.make_workload(), len(devices.devices)
    console = Console(highlight=False, quiet=jax.process_index() > 0)
    mesh = make_mesh(workload, devices.devices)
    if mesh.size < num_devices:
        raise TopologyError(
            f"{experiment.name}'s batch of {workload.batch_size} does not divide over "
            f"the {num_devices} devices of {devices.name}: choose at most "
            f"{mesh.size} of them, or another preset."
        )
    about = {"workload": experiment.name, "preset": preset_name}
    about |= {"batch_size": workload.batch_size, "mesh": dict(mesh.shape)}
    console.print(
        f"{experiment.name} ({preset_name}), batch {workload.batch_size}, on "
        f"{devices.name}: {num_devices} devices. Nothing is run."
    )
    rows = []
    num_epochs = max(3, round(preset.epochs))
    with console.status("compiling"):
        for row in plan_workload(
            workload, experiment.methods, num_epochs, mesh, devices.memory
        ):
            rows.append(row)
            console.print(f"compiled the {row.program} in {row.compile_seconds:.1f} s")
            if out is not None and jax.process_index() == 0:
                store(out, row, devices, about)
    console.print(report(rows, devices), soft_wrap=True, markup=False)
    return 0


def report(rows: Sequence[Row], devices: Devices) -> str:
    """The table, the collectives, and two sentences."""
    header = (
        f"{'':<24} {'arguments':>9} {'outputs':>9} {'temporary':>9} {'beside':>9} "
        f"{'of chip':>8}  {'GFLOP':>9} {'work':>6} {'compile':>8}"
    )
    return "\n".join(
        [
            "Memory of one device (beside: what lies there and is not the program's),",
            "FLOPs of one device, work of all devices relative to one device alone:",
            header,
            *(_line(row, devices) for row in rows),
            "Collectives (bytes that they produce on one device):",
            *(f"{row.program:<24} {_collectives(row)}" for row in rows if row.memory),
            *sentences(rows, devices),
        ]
    )


def sentences(rows: Sequence[Row], devices: Devices) -> list[str]:
    """Whether it fits, whether it is divided, what selective steps cost."""
    said = [fit(rows, devices)]
    for row in rows:
        if row.memory is None:
            continue
        work = row.work(len(devices.devices))
        if row.program == TRAIN_STEP and work > TOLERANCE:
            said.append(
                f"The {row.program} is not divided: the devices together do "
                f"{work:.2f} × one device's work."
            )
        if work < LOOPS:
            said.append(
                f"The work of the {row.program} is more than {work:.2f}: the compiler "
                f"has made loops, whose body XLA counts once."
            )
        if row.repeated > 0.05 * row.one_device:
            said.append(
                f"The {row.program} repeats the update of replicated parameters on "
                f"every device, {row.repeated / row.one_device:.2f} × one device's "
                f"work: enlarge the batch, or divide the train state."
            )
        if row.predicted is not None and rows[0].memory is not None:
            said.append(
                f"The {row.program} costs {_of_step(row, rows[0], devices):.2f} of the "
                f"train step, {row.predicted:.2f} by the cost model."
            )
    return said


def fit(rows: Sequence[Row], devices: Devices) -> str:
    """Whether everything fits, in a sentence."""
    most = max(rows, key=lambda row: row.total)
    needs = f"the {most.program} needs the most, {_bytes(most.total)}"
    if devices.memory is None:
        return (
            f"Whether it fits is unknown, as the memory of {devices.name} is: {needs}."
        )
    is_fit = most.total <= devices.memory and all(row.memory for row in rows)
    verdict = "It fits" if is_fit else "It does not fit"
    return f"{verdict}: {needs} of {_bytes(devices.memory)} on each device."


def store(path: Path, row: Row, devices: Devices, about: dict[str, Any]) -> None:
    """Append the row to a file of JSON lines."""
    num_devices = len(devices.devices)
    entry = about | {
        "devices": devices.name,
        "num_devices": num_devices,
        "device_memory": devices.memory,
        **row._asdict(),
        "total": row.total,
        "work": row.work(num_devices),
        "environment": environment() | {"libtpu": _version_of("libtpu")},
    }
    with path.open("a") as lines:
        lines.write(as_json_line(entry))


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def markdown(path: Path) -> str:
    """A table of the stored rows."""
    lines = [
        "| | arguments | temporaries | in all | of the chip | work | collectives |",
        "|---|---|---|---|---|---|---|",
    ]
    before = None
    for text in path.read_text().splitlines():
        row = json.loads(text)
        setting = f"{row['workload']}, batch {row['batch_size']:,}, {row['devices']}"
        if setting != before:
            lines.append(f"| **{setting}** | | | | | | |")
        before = setting
        memory = row["memory"]
        lines.append(
            f"| {row['program']} | {_bytes(memory['arguments'])} | "
            f"{_bytes(memory['temporaries'])} | {_bytes(row['total'])} | "
            f"{row['total'] / row['device_memory']:.0%} | "
            f"{'≥ ' * (row['work'] < LOOPS)}{row['work']:.2f} | "
            + ", ".join(
                f"{kind} {_bytes(found['bytes'])}"
                for kind, found in row["collectives"].items()
            )
            + " |"
        )
    return "\n".join(lines)


def _line(row: Row, devices: Devices) -> str:
    share = "unknown" if devices.memory is None else f"{row.total / devices.memory:.0%}"
    if row.memory is None:
        return (
            f"{row.program:<24} refused by the compiler: it needs "
            f"{_bytes(row.refused)} ({share})"
        )
    memory = row.memory
    return (
        f"{row.program:<24} {_bytes(memory.arguments):>9} {_bytes(memory.outputs):>9} "
        f"{_bytes(memory.temporaries + memory.code):>9} {_bytes(row.beside):>9} "
        f"{share:>8}  {row.flops / 1e9:>9,.3f} "
        f"{row.work(len(devices.devices)):>6.2f} {row.compile_seconds:>6.1f} s"
    )


def _collectives(row: Row) -> str:
    parts = (
        f"{kind} {found.number}, {_bytes(found.bytes)}"
        for kind, found in row.collectives.items()
    )
    return "; ".join(parts) or "none"


def _of_step(row: Row, step: Row, devices: Devices) -> float:
    """FLOPs relative to the train step's, both without repeated updates."""
    count = len(devices.devices)
    return (row.flops * count - row.repeated) / (step.flops * count - step.repeated)


def _bytes(size: float) -> str:
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
