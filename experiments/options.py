"""Options that every training experiment has: where it writes, how it survives."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where a training experiment writes, where it runs, how it survives."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A folder to write to that does not exist yet; by default runs/NAME-<time>."""
    resume: Flag = False
    """Go on with the run in --out, from its last checkpoint; begin it if there is
    none. The same command line serves every start of a job that may be pre-empted."""
    checkpoint_every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 60.0
    """Between checkpoints: what a crash can cost. SIGTERM saves at once."""
    max_skipped_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Steps of a run that may be skipped because loss or gradient are not finite; it
    ends at the next look, every 25 steps."""
    distributed: Flag = False
    """Run in several processes, one a host, all given the same command line: on a TPU
    pod or under SLURM as they are started there, else with JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID set. Needs an --out that all hosts share.
    `python -m experiments.launch` starts several on this machine."""

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
                raise ValueError(f"{name} needs a folder: name one with --out.")
