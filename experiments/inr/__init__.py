"""Coordinate networks that learn a picture, a sound or a shape, taught by NINT.

Each seed has a signal of its own. Seeds 100 to 199 have the signals that learning rates
are tuned on, others the ones that are reported.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from experiments.inr.rules import CONTROLS, RULES, SHARE, make_methods
from experiments.inr.workloads import Size, make_workload
from experiments.study.command import study_command
from experiments.study.records import Study
from experiments.study.study import Experiment, Preset

# Peaks found on two tuning pictures, seeds 100 and 101; see docs/coordinates.md.
PICTURE = Size(
    "picture",
    128,
    width=64,
    num_layers=3,
    learning_rate=8e-3,
    learning_rates=(
        ("random", 5e-4),
        ("random-fresh", 4e-3),
        ("int", 5e-4),
        ("attent-soft", 1e-3),
        ("evos-like", 2e-3),
        ("error-mix", 1e-3),
        ("nint", 1e-3),
    ),
)
SOUND = Size(
    "sound",
    8_000,
    width=64,
    num_layers=3,
    learning_rate=1e-3,  # and random-fresh; the others are like int and nint
    learning_rates=tuple((name, 3e-4) for name in ("random", *RULES)),
)
SHAPE = Size(
    "shape",
    24,
    width=64,
    num_layers=3,
    learning_rate=3e-3,
    learning_rates=(("int", 1e-3),),
)
# The paper's network, and its learning rate, which does not decay.
_AS_PAPER = {"width": 256, "num_layers": 5, "learning_rate": 1e-4, "is_decayed": False}


class _Preset(NamedTuple):
    size: Size
    about: str
    num_iterations: int
    """Of full training; they set all costs."""
    seeds: str
    cost_share: float = 0.5


_PRESETS = {
    "cpu": _Preset(
        PICTURE, "five pictures of 128 px, a SIREN of 3 × 64", 500, "200-204"
    ),
    "full": _Preset(PICTURE, "as cpu, with ten pictures", 500, "200-209"),
    "smoke": _Preset(
        Size("picture", 32, width=16, num_layers=2),
        "two pictures of 32 px, in a minute",
        200,
        "200-201",
    ),
    "cpu-constant": _Preset(
        PICTURE._replace(is_decayed=False, learning_rate=1e-3, learning_rates=()),
        "as cpu, but with one learning rate that does not decay, every row to full's "
        "cost, for quality by iteration and by time",
        500,
        "200-204",
        cost_share=1.0,
    ),
    "cpu-fourier": _Preset(
        PICTURE._replace(network="fourier"),
        "as cpu, with Fourier features",
        500,
        "200-204",
    ),
    "cpu-sound": _Preset(SOUND, "five sounds of a second", 500, "200-204"),
    "cpu-shape": _Preset(
        SHAPE, "signed distances of five shapes, in 3-D", 300, "200-204"
    ),
    "h200": _Preset(
        Size("picture", 512, **_AS_PAPER),
        "ten pictures of 512 px, the paper's SIREN and learning rate, every row to "
        "full's cost; for an accelerator",
        5_000,
        "200-209",
        cost_share=1.0,
    ),
    "h200-sound": _Preset(
        Size("sound", 44_100, rate=22_050, **_AS_PAPER),
        "five sounds of two seconds, as h200",
        5_000,
        "200-204",
        cost_share=1.0,
    ),
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


def _presets(options: SignalOptions) -> dict[str, Preset]:
    rules = {
        name: rule._replace(share=options.share)
        for name, rule in (CONTROLS | RULES).items()
    }
    return {
        name: Preset(
            preset.about,
            preset.num_iterations,
            preset.seeds,
            functools.partial(make_workload, preset.size, rules, options.signals),
            preset.cost_share,
            num_evaluations=20,
        )
        for name, preset in _PRESETS.items()
    }


def _configure(experiment: Experiment, options: SignalOptions) -> Experiment:
    """The experiment on a user's own signals, with another share."""
    return experiment._replace(
        methods=make_methods(options.share),
        presets=_presets(options),
        config={"share": options.share, "signals": list(map(str, options.signals))},
    )


def _sections(study: Study, folder: Path) -> list[str]:
    from experiments.inr import figures  # Matplotlib takes half a second

    return figures.sections(study, folder)


EXPERIMENT = Experiment(
    name="inr",
    title="Coordinate networks: NTK-guided teaching and its controls",
    description="Each seed learns another signal, and its quality is measured on it.",
    presets=_presets(SignalOptions()),
    methods=make_methods(),
    sections=_sections,
)
COMMAND = study_command(
    EXPERIMENT,
    "Learn pictures, sounds and shapes with coordinate networks.",
    own=SignalOptions,
    configure=_configure,
)
