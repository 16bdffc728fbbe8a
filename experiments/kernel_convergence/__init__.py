"""The theory's claims about the attention NTK, measured, in eight figures."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, get_args

import jax
import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.kernel_convergence.findings import Scale
from experiments.kernel_convergence.report import Outcome, to_json, to_markdown
from experiments.study.command import Command
from experiments.study.workdir import Run, environment

FigureName = Literal[
    "drift",
    "consistency",
    "loss_decrease",
    "canonical",
    "greedy",
    "lazy_rich",
    "importance",
    "finite_width",
]
TITLE = "The attention NTK: what holds, what fails"

LAPTOP = Scale(
    num_pool=24,
    num_probe=16,
    num_tokens=6,
    num_steps=2000,
    num_seeds=3,
    networks=((32, 1, 1), (8, 1, 1), (64, 1, 1), (32, 2, 2), (32, 4, 4)),
    widths=(16, 64, 256),
    limit_widths=(4, 8, 16, 32, 64),
    layer_seeds=10,
)
"""All eight figures in under 4 minutes on two CPU cores."""

PRESETS: Mapping[str, Scale] = {
    "laptop": LAPTOP,
    "h200": LAPTOP._replace(
        num_pool=64,
        num_probe=32,
        num_tokens=16,
        num_steps=10_000,
        num_seeds=10,
        networks=((64, 1, 1), (16, 1, 1), (256, 1, 1), (64, 2, 4), (64, 6, 8)),
        widths=(16, 32, 64, 128, 256, 512, 1024),
        limit_widths=(4, 8, 16, 32, 64, 128),
        layer_seeds=40,
    ),
    "paper-scale": LAPTOP._replace(
        num_pool=256,
        num_probe=64,
        num_tokens=49,
        num_steps=50_000,
        num_seeds=10,
        networks=((256, 2, 4), (64, 2, 4), (768, 2, 12), (256, 6, 4), (256, 12, 4)),
        widths=(16, 64, 256, 1024, 4096),
        limit_widths=(4, 8, 16, 32, 64, 128, 256),
        layer_seeds=100,
    ),
}


@dataclasses.dataclass(frozen=True)
class KernelConvergence:
    """Test the theory of the attention NTK, in eight figures with verdicts.

    Small transformers learn the outputs of another, random transformer in float64. The
    kernel is recorded on held-out sequences. Does it converge (drift)? Does the
    function follow it (consistency, loss_decrease, canonical)? Does a greedy teacher
    gain from it (greedy)? When does it freeze (lazy_rich)? What are its parts
    (importance)? What is its limit (finite_width)? Each claim is printed with the
    measurement and "holds", "fails" or "inconclusive".

    Writes report.md, report.json and an image per figure as soon as each is done.
    Ctrl-C keeps them. Takes under 4 minutes on two cores.
    """

    figures: tuple[FigureName, ...] = get_args(FigureName)
    """Figures to make, in this order."""
    preset: Literal["laptop", "h200", "paper-scale"] = "laptop"
    """Size of the study. "laptop" makes the documentation's figures. "h200" has longer
    sequences, wider and deeper networks and more seeds, for one large GPU.
    "paper-scale" has sequences of 49 tokens and up to twelve layers, for many hours on
    one. Only "laptop" has been timed."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FOLDER",
            help_behavior_hint="(default: runs/kernel-convergence-<time>)",
        ),
    ] = None
    """Folder to write to; must not exist yet."""

    def __post_init__(self):
        if not self.figures:
            raise ValueError("figures is empty: name at least one.")


def main(config: KernelConvergence, scale: Scale | None = None) -> int:
    """Measure, draw and judge each figure; returns the exit status.

    Args:
      config: from the command line.
      scale: used instead of the preset's.
    """
    # theory/ needs neural-tangents, which the other experiments do not.
    from experiments.kernel_convergence.figures import make

    scale = scale or PRESETS[config.preset]
    run = Run("kernel-convergence", config.out)
    console = Console(highlight=False)
    console.print(f"Writing to {run.folder}")
    outcomes: list[Outcome] = []
    is_complete = False
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        jax.enable_x64(True),
        Progress(*columns, console=console, transient=True) as progress,
    ):
        _report(run, config, scale, outcomes, is_complete)
        try:
            for name in progress.track(config.figures, description="figures"):
                outcome = make(name, scale, run.folder, progress)
                outcomes.append(outcome)
                _report(run, config, scale, outcomes, is_complete)
                progress.console.print(f"{name} ({outcome.seconds:.0f} s)")
                for finding in outcome.findings:
                    for word, text in (
                        (finding.verdict, finding.claim),
                        ("", finding.measured),
                    ):
                        progress.console.print(f"  {word:<12} {text}", soft_wrap=True)
            is_complete = True
        except KeyboardInterrupt:
            progress.console.print("Interrupted: reporting the completed figures.")
        _report(run, config, scale, outcomes, is_complete)
    console.print(f"Report and figures are in {run.folder}")
    return 0 if is_complete else 130


def _report(
    run: Run,
    config: KernelConvergence,
    scale: Scale,
    outcomes: list[Outcome],
    is_complete: bool,
) -> None:
    about = environment() | {"neural-tangents": version("neural-tangents")}
    text = "" if is_complete else "**Incomplete: the figures done so far.** "
    text += (
        f"Small transformers in float64 learn {scale.num_pool} sequences of "
        f"{scale.num_tokens} tokens; kernels are recorded on {scale.num_probe} others. "
        f"{scale.num_steps} steps at most, {scale.num_seeds} seeds "
        f"({scale.layer_seeds} of single layers). Made with "
        f"{', '.join(f'{name} {value}' for name, value in about.items())}."
    )
    run.write(
        "report.json",
        to_json(
            outcomes,
            title=TITLE,
            is_complete=is_complete,
            config=dataclasses.asdict(config) | {"out": str(run.folder)},
            scale=scale,
            environment=about,
        ),
    )
    run.write("report.md", to_markdown(outcomes, title=TITLE, text=text))


COMMAND = Command(KernelConvergence, main)
