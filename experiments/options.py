"""Options of every training experiment: output, checkpoints, processes."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Output, checkpoints and processes of a training experiment."""

    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FOLDER", help_behavior_hint="(default: runs/NAME-<time>)"
        ),
    ] = None
    """Folder to write to; must not exist yet."""
    resume: Flag = False
    """Continue the run in --out from its last checkpoint, or start it if there is
    none. Use the same command line for every start of a job that may be pre-empted."""
    checkpoint_every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 60.0
    """Time between checkpoints, the most that a crash loses. SIGTERM saves at once."""
    max_skipped_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Number of steps that may be skipped because the loss or gradient is not finite.
    With more the run stops; this is checked every 25 steps."""
    distributed: Flag = False
    """Run in several processes, one per host, all with the same command line. TPU pods
    and SLURM are detected; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. Needs an --out that all hosts share. `python -m experiments.launch`
    starts several processes on this machine."""

    def __post_init__(self):
        if self.checkpoint_every < 0:
            raise ValueError(
                f"checkpoint_every must be at least 0, got {self.checkpoint_every}."
            )
        if self.max_skipped_steps < 0:
            raise ValueError(
                f"max_skipped_steps must be at least 0, got {self.max_skipped_steps}."
            )
        for name in ("resume", "distributed"):
            if getattr(self, name) and self.out is None:
                raise ValueError(f"{name} needs a folder: pass one with --out.")
