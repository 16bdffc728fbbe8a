"""An experiment as a command: its options, and what it runs."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from experiments.plan.described_devices import this_machine
from experiments.plan.report import run_plan
from experiments.study.options import RunOptions, StudyOptions
from experiments.study.study import Experiment, choose_methods, run_study


class Command(NamedTuple):
    """A command of `python -m experiments`."""

    options: Any
    """A dataclass; its docstring is the command's help."""
    main: Callable[[Any], int]
    """`(options) -> exit status`"""


def study_command(
    experiment: Experiment,
    about: str,
    *,
    own: type | None = None,
    configure: Callable[[Experiment, Any], Experiment] | None = None,
) -> Command:
    """The command that runs a study: its options are those of every experiment.

    Args:
      experiment: what is compared.
      about: the command's help.
      own: a dataclass of options that only this experiment has.
      configure: `(experiment, own options) -> experiment`, with all that results depend
        on in `Experiment.config`. Refuse bad input here, before anything is written.
    """
    presets = tuple(experiment.presets)
    sizes = ". ".join(f'"{name}": {experiment.presets[name].about}' for name in presets)
    preset_type = Annotated[Literal[presets], tyro.conf.arg(help=f"{sizes}.")]  # pyright: ignore[reportInvalidTypeForm]

    def check(options: Any) -> None:
        choose_methods(experiment, options.study.methods)

    fields: list[Any] = [("preset", preset_type, presets[0])]
    if own is not None:
        fields.append(("own", own, dataclasses.field(default_factory=own)))
    fields += [
        ("study", StudyOptions, dataclasses.field(default_factory=StudyOptions)),
        ("run", RunOptions, dataclasses.field(default_factory=RunOptions)),
    ]
    options = dataclasses.make_dataclass(
        "Options",
        fields,
        namespace={"__doc__": about, "__post_init__": check},
        frozen=True,
    )

    def main(options: Any) -> int:
        configured = configure(experiment, options.own) if configure else experiment
        if options.run.plan:
            chosen = configured._replace(
                methods=choose_methods(configured, options.study.methods)
            )
            return run_plan(chosen, options.preset, this_machine())
        return run_study(configured, options.preset, options.study, options.run)

    return Command(options, main)
