"""Claims compared with measurements: studies whose jobs are figures with verdicts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.study.page import json_page, markdown_page, markdown_table
from experiments.study.records import (
    RESULT_NAME,
    completed_jobs,
    read_config,
    read_sealed,
    sealed,
)
from experiments.study.workdir import write_atomically

Verdict = Literal["holds", "fails", "inconclusive"]
PICTURE_NAME = "figure.png"
_VERDICTS = """\
**holds**: the measurement agrees with the claim, within the tolerance that the figure's
module states. **fails**: it does not. **inconclusive**: training was too short, or the
seeds disagree."""


class Finding(NamedTuple):
    """A claim and its measurement."""

    claim: str
    measured: str
    verdict: Verdict


class MeasuredFigure(NamedTuple):
    """A completed figure."""

    name: str
    caption: str
    """A headline, a blank line, and what was run and why."""
    findings: Sequence[Finding]
    seconds: float
    """Wall time with compilation."""
    data: Any
    """The numbers; those that are not finite are stored as null."""


class FigureJob(NamedTuple):
    """A stored figure."""

    figure: MeasuredFigure
    environment: Mapping[str, str]
    folder: Path


def figure_folder(folder: Path, name: str) -> Path:
    """Where a figure of a study is stored."""
    return folder / "jobs" / name


def store_figure(
    folder: Path, figure: MeasuredFigure, picture: bytes, environment: Mapping[str, str]
) -> None:
    """Store a figure; it is completed when its result is."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PICTURE_NAME, picture)
    content = {"figure": figure._asdict(), "environment": environment}
    write_atomically(folder / RESULT_NAME, sealed(content))


def read_figure(folder: Path) -> FigureJob:
    """A completed figure; raises as `read_sealed`."""

    def make(content: dict[str, Any]) -> FigureJob:
        fields = content["figure"]
        findings = [Finding(*finding.values()) for finding in fields["findings"]]
        figure = MeasuredFigure(**{**fields, "findings": findings})
        return FigureJob(figure, content["environment"], folder)

    return read_sealed(folder, make)


def write_claims_report(
    folders: Sequence[Path], out: Path, *, is_complete: bool
) -> str:
    """Write report.md, report.json and the pictures; returns the Markdown report.

    Pictures are copied as they were drawn.
    """
    config = read_config(folders)
    order = {name: i for i, name in enumerate(config["figures"])}
    jobs = [read_figure(folder) for folder in completed_jobs(folders)]
    jobs.sort(key=lambda job: order[job.figure.name])
    for job in jobs:
        picture = (job.folder / PICTURE_NAME).read_bytes()
        write_atomically(out / f"{job.figure.name}.png", picture)
    markdown = markdown_page(
        config["title"],
        config["description"],
        [job.environment for job in jobs],
        _sections([job.figure for job in jobs]),
        is_complete=is_complete,
    )
    rows = [job.figure._asdict() | {"environment": job.environment} for job in jobs]
    write_atomically(out / "report.md", markdown)
    content = json_page(config, is_complete=is_complete, figures=rows)
    write_atomically(out / "report.json", content)
    return markdown


def _sections(figures: Sequence[MeasuredFigure]) -> list[str]:
    """The table of verdicts, then each figure with its caption."""
    table = [["claim", "verdict"]]
    sections = []
    for number, figure in enumerate(figures, start=1):
        table += [
            [f"{number}. {finding.claim}", f"**{finding.verdict}**"]
            for finding in figure.findings
        ]
        headline, _, rest = figure.caption.strip().partition("\n\n")
        sections += [
            f"## {number}. {headline}",
            " ".join(rest.split()),
            f"![{headline}]({figure.name}.png)",
            "\n".join(
                f"* {finding.claim} → {finding.measured} → **{finding.verdict}**."
                for finding in figure.findings
            ),
            f"({figure.seconds:.0f} s)",
        ]
    return [markdown_table(table), _VERDICTS, *sections]
