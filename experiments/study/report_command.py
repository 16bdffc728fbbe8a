"""`python -m experiments report`: draw again from stored results."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.study.command import Command
from experiments.study.records import completed_jobs, read_config
from experiments.study.report import write_report
from experiments.study.workdir import RecordError


@dataclasses.dataclass(frozen=True)
class Report:
    """Report the completed runs of an experiment, from one folder or several.

    Several folders are the parts of one study: the same experiment and preset, with
    other seeds, methods or figures, from other machines or times. Nothing is trained.
    The pictures of kernel-convergence are copied as they were drawn.
    """

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")
    ]
    """Folders that --out named."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FOLDER", help_behavior_hint="(default: the folder, if it is one)"
        ),
    ] = None
    """Where to write report.md, report.json and the figures; a new folder."""

    def __post_init__(self):
        if not self.folders:
            raise ValueError("folders is empty: name at least one.")
        if len(self.folders) > 1 and self.out is None:
            raise ValueError("several folders need a new one: pass it with --out.")


def main(options: Report) -> int:
    """Write the report; returns the exit status."""
    read_config(options.folders)
    if not completed_jobs(options.folders):
        raise RecordError(
            f"{options.folders[0]} has no completed run yet: wait for one."
        )
    folder = options.out or options.folders[0]
    if options.out is not None:
        try:
            options.out.mkdir(parents=True)
        except FileExistsError:
            raise RecordError(
                f"out={folder} exists already: name a new folder, so that no results "
                f"are overwritten."
            ) from None
    report = write_report(options.folders, folder)
    console = Console(highlight=False)
    console.print(report, soft_wrap=True, markup=False)
    console.print(f"Report and figures are in {folder}")
    return 0


COMMAND = Command(Report, main)
