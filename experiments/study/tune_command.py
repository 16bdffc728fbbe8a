"""`python -m experiments tune`: every method's peak learning rate, on other seeds."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.study.command import Command
from experiments.study.options import OptionError, RunOptions, StudyOptions, parse_seeds
from experiments.study.page import markdown_table
from experiments.study.paired_statistics import mean_std, methods_of
from experiments.study.records import Study, read_study
from experiments.study.study import choose_methods, find_experiment, run_study


@dataclasses.dataclass(frozen=True)
class Tune:
    """Train every method at several peak learning rates; print the best of each.

    Every rate is a study in a folder of its own under --out. The seeds, and so the data
    splits, are others than the ones that are reported. Run the same command again to
    continue.
    """

    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """An experiment that trains, such as demo."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the studies."""
    rates: Annotated[tuple[float, ...], tyro.conf.arg(metavar="RATE")]
    """Peak learning rates."""
    preset: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: its first)")
    ] = None
    """Of the experiment."""
    study: StudyOptions = dataclasses.field(
        default_factory=lambda: StudyOptions(seeds="100-109")
    )

    def __post_init__(self):
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates must be numbers above 0, got {self.rates}.")


def main(options: Tune) -> int:
    """Run the studies that are left, and print the table; returns the exit status."""
    experiment = find_experiment(options.experiment)
    name = options.preset or next(iter(experiment.presets))
    if name not in experiment.presets:
        raise OptionError(
            f"preset must be one of {', '.join(experiment.presets)}, got {name!r}."
        )
    preset = experiment.presets[name]
    studies: dict[float, Study] = {}
    num_methods = len(choose_methods(experiment, options.study.methods))
    num_jobs = num_methods * len(parse_seeds(options.study.seeds or preset.seeds))
    for rate in options.rates:
        folder = options.out / f"rate-{rate:g}"
        workload = preset.make_workload()._replace(
            learning_rate=rate, learning_rates=()
        )
        at_rate = preset._replace(make_workload=lambda workload=workload: workload)
        status = run_study(
            experiment._replace(presets={name: at_rate}),
            name,
            options.study,
            RunOptions(out=folder, resume=True),
        )
        studies[rate] = read_study([folder])
        if status or len(studies[rate].jobs) < num_jobs:
            return status  # interrupted
    console = Console(highlight=False)
    console.print(to_table(studies), soft_wrap=True, markup=False)
    return 0


def to_table(studies: dict[float, Study]) -> str:
    """A row per method: its quality at each rate, and the best rate."""
    first = next(iter(studies.values()))
    measure, sign = (
        first.objective.measure,
        1 if first.objective.higher_is_better else -1,
    )
    table = [[measure, *(f"{rate:g}" for rate in studies), "best"]]
    for method in methods_of(first.results):
        means = {
            rate: mean_std(study.results, method, measure)
            for rate, study in studies.items()
        }
        best = max(means, key=lambda rate: sign * means[rate][0])
        cells = [f"{mean:.2f} ± {std:.2f}" for mean, std in means.values()]
        table.append([method, *cells, f"{best:g}"])
    return markdown_table(table)


COMMAND = Command(Tune, main)
