"""Coordinate networks that learn a picture, a sound or a shape, taught by NINT.

Each seed has a signal of its own. Seeds 100 to 199 have the signals that learning rates
are tuned on, others the ones that are reported.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import tyro

from experiments.inr.rules import CONTROLS, RULES, SHARE, make_methods
from experiments.inr.workloads import Size, make_workload
from experiments.study.command import study_command
from experiments.study.records import Study
from experiments.study.study import Experiment, Preset

PICTURE = Size("picture", 128)
PAPER = Size("picture", 512, width=256, num_layers=5, learning_rate=1e-4)
SOUND = Size("sound", 16_000)
SHAPE = Size("shape", 32)
H200_SOUND = Size(
    "sound", 44_100, rate=22_050, width=256, num_layers=5, learning_rate=1e-4
)

_SIZES = {
    "cpu": PICTURE,
    "smoke": Size("picture", 32, width=16, num_layers=2),
    "cpu-constant": PICTURE._replace(is_decayed=False),
    "cpu-fourier": PICTURE._replace(network="fourier"),
    "cpu-sound": SOUND,
    "cpu-shape": SHAPE,
    "h200": PAPER._replace(is_decayed=False),
    "h200-sound": H200_SOUND._replace(is_decayed=False),
}


@dataclasses.dataclass(frozen=True)
class SignalOptions:
    """What is learnt, and how much of it at once."""

    signals: Annotated[
        tuple[Path, ...],
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the shipped ones)"),
    ] = ()
    """Pictures, or WAV files for the presets of sounds; seed n takes number n modulo
    their number."""
    share: Annotated[float, tyro.conf.arg(metavar="SHARE")] = SHARE
    """Share of the coordinates that the rules teach in an iteration."""

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}.")
        for path in self.signals:
            if not path.is_file():
                raise ValueError(f"signals has {path}, which is not a file.")


def _make(size: Size, options: SignalOptions):
    rules = {
        name: rule._replace(share=options.share)
        for name, rule in (CONTROLS | RULES).items()
    }
    return functools.partial(make_workload, size, rules, options.signals)


def _configure(experiment: Experiment, options: SignalOptions) -> Experiment:
    """The experiment on a user's own signals, with another share."""
    presets = {
        name: preset._replace(make_workload=_make(_SIZES[name], options))
        for name, preset in experiment.presets.items()
    }
    return experiment._replace(
        methods=make_methods(options.share),
        presets=presets,
        config={"share": options.share, "signals": list(map(str, options.signals))},
    )


def _sections(study: Study, folder: Path) -> list[str]:
    from experiments.inr import figures  # Matplotlib takes half a second

    return figures.sections(study, folder)


def _preset(name: str, about: str, iterations: int, seeds: str, **sizes) -> Preset:
    """`iterations` of full training, which set all costs."""
    make = _make(_SIZES[name], SignalOptions())
    return Preset(about, iterations, seeds, make, num_evaluations=20, **sizes)


EXPERIMENT = Experiment(
    name="inr",
    title="Coordinate networks: NTK-guided teaching and its controls",
    description="Each seed learns another signal, and its quality is measured on it.",
    presets={
        "cpu": _preset("cpu", "pictures of 128 px, a SIREN of 3 × 64", 500, "200-204"),
        "smoke": _preset("smoke", "a picture of 32 px, in a minute", 200, "200-201"),
        "cpu-constant": _preset(
            "cpu-constant",
            "as cpu, but at a constant learning rate and each row to full's cost, for "
            "quality by iteration and by time",
            500,
            "200-204",
            cost_share=1.0,
        ),
        "cpu-fourier": _preset(
            "cpu-fourier", "as cpu, with Fourier features", 500, "200-204"
        ),
        "cpu-sound": _preset("cpu-sound", "sounds of 2 s", 500, "200-204"),
        "cpu-shape": _preset("cpu-shape", "signed distances of shapes", 300, "200-204"),
        "h200": _preset(
            "h200",
            "ten pictures of 512 px, the paper's SIREN and learning rate, each row to "
            "full's cost; on an accelerator",
            5_000,
            "200-209",
            cost_share=1.0,
        ),
        "h200-sound": _preset(
            "h200-sound", "five sounds at 22 kHz, as h200", 5_000, "200-204"
        ),
    },
    methods=make_methods(),
    sections=_sections,
)
COMMAND = study_command(
    EXPERIMENT,
    "Learn pictures, sounds and shapes with coordinate networks.",
    own=SignalOptions,
    configure=_configure,
)
