"""The theory's claims about the attention NTK, measured, in eight figures."""

import dataclasses
import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import Literal, get_args

import jax
from rich.progress import Progress, TaskID

from experiments.kernel_convergence.findings import Scale
from experiments.study.claims import figure_folder, read_figure, store_figure
from experiments.study.command import Command
from experiments.study.jobs import run_jobs
from experiments.study.options import FolderOptions
from experiments.study.records import RESULT_NAME
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

    Writes report.md, report.json, an image per figure, and a folder for each figure.
    Ctrl-C reports the figures completed so far, --resume makes those that are left.
    Takes under 4 minutes on two cores.
    """

    figures: tuple[FigureName, ...] = get_args(FigureName)
    """Figures to make, in this order. The report has them in the order above."""
    preset: Literal["laptop", "h200", "paper-scale"] = "laptop"
    """Size of the study. "laptop" makes the documentation's figures. "h200" has longer
    sequences, wider and deeper networks and more seeds, for one large GPU.
    "paper-scale" has sequences of 49 tokens and up to twelve layers, for many hours on
    one. Only "laptop" has been timed."""
    run: FolderOptions = dataclasses.field(default_factory=FolderOptions)

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
    run = Run(
        "kernel-convergence",
        config.run.out,
        config={
            "preset": config.preset,
            "scale": scale._asdict(),
            "title": TITLE,
            "description": (
                f"Small transformers in float64 learn {scale.num_pool} sequences of "
                f"{scale.num_tokens} tokens; kernels are recorded on {scale.num_probe} "
                f"others. {scale.num_steps} steps at most, {scale.num_seeds} seeds "
                f"({scale.layer_seeds} of single layers)."
            ),
            "figures": get_args(FigureName),
        },
        resume=config.run.resume,
    )

    def complete(name: str, progress: Progress, task: TaskID) -> None:
        """Make a figure, unless it is completed."""
        folder = figure_folder(run.folder, name)
        is_done = (folder / RESULT_NAME).exists()
        progress.update(task, description=name)
        if not is_done:
            figure, picture = make(name, scale, progress)
            about = environment() | {"neural-tangents": version("neural-tangents")}
            store_figure(folder, figure, picture, about)
        figure = read_figure(folder).figure
        progress.advance(task)
        progress.console.print(
            f"{name:<14} {', '.join(finding.verdict for finding in figure.findings)}"
            f"  {figure.seconds:.0f} s{'  (done before)' * is_done}"
        )

    jobs = {name: functools.partial(complete, name) for name in config.figures}
    with jax.enable_x64(True):
        return run_jobs(run, jobs, total=len(jobs))


COMMAND = Command(KernelConvergence, main)
