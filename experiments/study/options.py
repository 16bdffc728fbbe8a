"""Options of every experiment: what is run, where it is written, on what."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import tyro

MAX_SEEDS = 10_000

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


class OptionError(ValueError):
    """Something cannot be run with the options given; says which ones can."""


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    """What is run."""

    seeds: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="N|A-B|A,B", help_behavior_hint="(default: the preset's)"
        ),
    ] = None
    """Repetitions, each with its own data split, parameters, order and selection: "6"
    is 0 to 5, "200-219" and "3,5,8" are those seeds. A win needs 10."""
    methods: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="METHOD", help_behavior_hint="(default: all)"),
    ] = ()
    """Methods to run. A verdict needs "full" and its controls."""
    epochs: Annotated[
        float | None,
        tyro.conf.arg(metavar="N", help_behavior_hint="(default: the preset's)"),
    ] = None
    """Epochs of "full", which set its cost; all other methods get the same share of
    it."""

    def __post_init__(self):
        parse_seeds(self.seeds or "1")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs must be a number above 0, got {self.epochs}.")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods has duplicates: {' '.join(self.methods)}.")


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """Where it is written."""

    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FOLDER", help_behavior_hint="(default: runs/NAME-<time>)"
        ),
    ] = None
    """Folder to write to; must be new or empty."""
    resume: Flag = False
    """Continue the run in --out where it was saved, or start it if there is none. Use
    the same command line for every start of a job that may be pre-empted. More seeds,
    methods and figures may be added."""

    def __post_init__(self):
        self._need_out("resume")

    def _need_out(self, name: str) -> None:
        if getattr(self, name) and self.out is None:
            raise ValueError(f"{name} needs a folder: pass one with --out.")


@dataclasses.dataclass(frozen=True)
class RunOptions(FolderOptions):
    """Where it is written, and how it runs."""

    checkpoint_every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 60.0
    """Time between checkpoints, the most that a crash loses. SIGTERM saves at once."""
    max_skipped_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Number of steps that may be skipped because the loss or gradient is not finite.
    With more the run stops; this is checked every 25 steps."""
    distributed: Flag = False
    """Run in several processes, one per host, all with the same command line. TPU pods
    and SLURM are detected; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. Needs an --out that all hosts share. If a process is stopped or
    lost, jax ends the others within 100 seconds. `python -m experiments.launch` starts
    several processes on this machine."""
    plan: Flag = False
    """Compile everything for this machine's devices, say what it needs, and train
    nothing. `python -m experiments plan` does so for devices that are not here."""

    def __post_init__(self):
        super().__post_init__()
        self._need_out("distributed")
        if not self.checkpoint_every >= 0:
            raise ValueError(
                f"checkpoint_every must be at least 0, got {self.checkpoint_every}."
            )
        if self.max_skipped_steps < 0:
            raise ValueError(
                f"max_skipped_steps must be at least 0, got {self.max_skipped_steps}."
            )


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that `--seeds` names.

    Example:
      >>> parse_seeds("3"), parse_seeds("200-202"), parse_seeds("5,8")
      ((0, 1, 2), (200, 201, 202), (5, 8))
    """
    error = ValueError(
        f"seeds must be a number such as 6, a range such as 200-219 or a list such as "
        f"3,5,8, of at most {MAX_SEEDS:,} seeds, got {text!r}."
    )
    try:
        first, is_range, last = text.partition("-")
        if is_range:
            seeds = range(int(first), int(last) + 1)
        elif "," in text:
            seeds = [int(number) for number in text.split(",")]
        else:
            seeds = range(int(text))
    except ValueError:
        raise error from None
    if not 0 < len(seeds) <= MAX_SEEDS or max(seeds) >= 2**31:
        raise error
    if len(set(seeds)) < len(seeds):
        raise error
    return tuple(seeds)
