"""`python -m experiments plan`: what an experiment needs elsewhere."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments.plan.described_devices import (
    TopologyError,
    check_topology,
    cpus,
    described,
    this_machine,
)
from experiments.plan.report import run_plan
from experiments.study.command import Command
from experiments.study.study import find_experiment


@dataclasses.dataclass(frozen=True)
class Plan:
    """Compile an experiment's programs ahead of time, and say what they need.

    The programs are the train step, the selective steps, the scoring pass and the
    teacher's update. Nothing is run and no data are read. The table has each device's
    memory, its FLOPs, how far the work is divided, and the communication between
    devices. A TPU's programs are compiled by its own compiler, in the environment that
    `make pod-check` creates.
    """

    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """An experiment that trains, such as demo; or pod-size, a ViT-B/16 and a decoder
    that only serve to be compiled."""
    preset: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: the first)")
    ] = None
    """A preset of the experiment."""
    topology: Annotated[
        str | None,
        tyro.conf.arg(metavar="CHIP:SHAPE", help_behavior_hint="(default: none)"),
    ] = None
    """A slice of TPUs: v5e:16x16, v6e:4x4, v4:2x2x2, v5p:2x2x1."""
    devices: Annotated[
        int | None,
        tyro.conf.arg(metavar="N", help_behavior_hint="(default: this machine's)"),
    ] = None
    """This machine's CPU as that many devices."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Append the rows to this file, as JSON lines."""

    def __post_init__(self):
        if self.topology is not None and self.devices is not None:
            raise ValueError("topology and devices exclude each other: pass one.")
        if self.topology is not None:
            check_topology(self.topology)
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"devices must be at least 1, got {self.devices}.")
        presets = find_experiment(self.experiment).presets
        if self.preset is not None and self.preset not in presets:
            raise ValueError(
                f"preset must be one of {', '.join(presets)}, got {self.preset!r}."
            )


def main(options: Plan) -> int:
    """Print the plan; returns the exit status."""
    experiment = find_experiment(options.experiment)
    preset = options.preset or next(iter(experiment.presets))
    try:
        if options.topology is not None:
            devices = described(options.topology)
        elif options.devices is not None:
            devices = cpus(options.devices)
        else:
            devices = this_machine()
        return run_plan(experiment, preset, devices, options.out)
    except TopologyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


COMMAND = Command(Plan, main)
