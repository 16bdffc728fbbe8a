"""Methods × seeds, each a job that resumes by itself; the command of an experiment."""

import dataclasses
import functools
import importlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import Progress, TaskID

from attent_jax import distributed
from experiments.study import records
from experiments.study.compiled import compile_for
from experiments.study.hooks import (
    Checkpoints,
    Hook,
    Metrics,
    ProgressBar,
    Snapshots,
    Taught,
)
from experiments.study.jobs import run_jobs
from experiments.study.loop import RunSpec, train
from experiments.study.methods import STANDARD_METHODS, Method
from experiments.study.options import (
    OptionError,
    RunOptions,
    StudyOptions,
    parse_seeds,
)
from experiments.study.paired_statistics import Result
from experiments.study.preemption import Interruption
from experiments.study.processes import agree, wait_for_all
from experiments.study.workdir import RecordError, Run, environment
from experiments.study.workload import Split, Workload


class Preset(NamedTuple):
    """The size of a study."""

    about: str
    """A phrase for the help."""
    epochs: float
    """Of the reference; they set its cost."""
    seeds: str
    """As `--seeds`."""
    make_workload: Callable[[], Workload]
    cost_share: float = 0.5
    """Cost of the other methods, as a share of the reference's."""
    num_evaluations: int = 6


class Experiment(NamedTuple):
    """A workload in several sizes, and the methods compared on it."""

    name: str
    title: str
    description: str
    """A sentence about the data, for the report."""
    presets: dict[str, Preset]
    """The first one is the default."""
    methods: Sequence[Method] = STANDARD_METHODS
    config: Mapping[str, Any] = MappingProxyType({})
    """JSON data of its own that results depend on."""
    sections: Callable[[records.Study, Path], list[str]] | None = None
    """`(study, folder) -> Markdown`: the report's own sections; draws their pictures in
    the folder."""


def run_study(
    experiment: Experiment, preset_name: str, what: StudyOptions, where: RunOptions
) -> int:
    """Run every method for every seed, and report; returns the exit status.

    Seeds are the outer loop, so that the methods' wall times interleave. Ctrl-C stops
    the study and reports the completed runs. SIGTERM saves the current run, to be
    resumed.
    """
    preset = experiment.presets[preset_name]
    methods = choose_methods(experiment, what.methods)
    workload = preset.make_workload()
    # The methods of a seed share its data.
    workload = workload._replace(load=functools.lru_cache(maxsize=1)(workload.load))
    epochs = preset.epochs if what.epochs is None else what.epochs
    budget = epochs * workload.num_examples
    mesh = make_mesh(workload)
    seeds = parse_seeds(what.seeds or preset.seeds)
    runs = [
        RunSpec(
            # Pictures are of the first seed; those of all would be gigabytes.
            workload if seed == min(seeds) else workload._replace(snapshot=None),
            method,
            seed,
            budget if method.role == "reference" else budget * preset.cost_share,
            preset.num_evaluations,
        )
        for seed in seeds
        for method in methods
    ]
    for run in runs[: len(methods)]:  # what cannot be run is refused here
        run.plan()
        compile_for(workload, run.method.make_step, mesh)
        if run.method.uses_groups and not workload.groups:
            raise OptionError(
                f"method {run.method.name} needs groups, which {experiment.name} does "
                f"not have: name other methods with --methods."
            )
    folder = Run(
        experiment.name,
        where.out,
        config={
            "preset": preset_name,
            "epochs": epochs,
            "cost_share": preset.cost_share,
            "num_evaluations": preset.num_evaluations,
            "num_examples": workload.num_examples,
            "batch_size": workload.batch_size,
            "score_batch_size": workload.score_batch_size,
            "score_cost": workload.score_cost,
            "learning_rates": {
                method.name: workload.learning_rate_of(method.name)
                for method in experiment.methods
            },
            "objective": workload.objective._asdict(),
            "title": experiment.title,
            "description": experiment.description,
            "groups": list(workload.groups),
            "methods": [method.name for method in experiment.methods],
            **experiment.config,
        },
        resume=where.resume,
    )
    return _Study(folder, where, mesh, Interruption()).execute(runs)


def choose_methods(experiment: Experiment, names: Sequence[str]) -> list[Method]:
    """The methods that `--methods` names, in the experiment's order."""
    known = [method.name for method in experiment.methods]
    if unknown := [name for name in names if name not in known]:
        raise OptionError(
            f"methods has {unknown[0]!r}, which {experiment.name} does not have: "
            f"choose from {', '.join(known)}."
        )
    return [m for m in experiment.methods if not names or m.name in names]


def find_experiment(name: str) -> Experiment:
    """The experiment of a name on the command line."""
    modules = {"pod-size": "experiments.benchmarks.pod_size"}
    module = modules.get(name, f"experiments.{name.replace('-', '_')}")
    try:
        return importlib.import_module(module).EXPERIMENT
    except (AttributeError, ModuleNotFoundError) as error:
        if not (error.name or "").startswith(("experiments", "EXPERIMENT")):
            raise  # a package that the experiment needs
        raise ValueError(
            f"experiment must be one that trains, such as demo, got {name!r}: "
            f"`python -m experiments --help` lists them."
        ) from None


def make_mesh(workload: Workload, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices, or the ones given; in one process as many as divide the batch."""
    devices = jax.devices() if devices is None else devices
    if jax.process_count() == 1:
        counts = range(1, len(devices) + 1)
        devices = devices[: max(n for n in counts if workload.batch_size % n == 0)]
    if workload.batch_size % len(devices):
        raise OptionError(
            f"{workload.name}: a batch of {workload.batch_size} examples does not "
            f"divide over the {len(devices)} devices of {jax.process_count()} "
            f"processes: start a number of processes with which it does."
        )
    fsdp = len(devices) if workload.fsdp is None else workload.fsdp
    if len(devices) % fsdp:
        raise OptionError(
            f"{workload.name}: parameters are split over fsdp={fsdp} devices, which "
            f"does not divide the {len(devices)} that are used: use another number."
        )
    return distributed.make_mesh(fsdp=fsdp, devices=devices)


@dataclasses.dataclass
class _Study:
    """A study that is being run."""

    run: Run
    options: RunOptions
    mesh: Mesh
    interruption: Interruption
    first_of_seed: dict[int, records.Job] = dataclasses.field(default_factory=dict)
    """A completed run of each seed that has one."""

    def execute(self, runs: Sequence[RunSpec]) -> int:
        """All runs that are not completed; returns the exit status."""
        # A damaged result is refused before any work.
        for folder in records.completed_jobs([self.run.folder]):
            job = records.read_job(folder)
            self.first_of_seed.setdefault(job.result.seed, job)
        jobs = {_name_of(run): functools.partial(self._run_job, run) for run in runs}
        with self.interruption.watched():
            return run_jobs(self.run, jobs, total=sum(run.budget for run in runs))

    def _run_job(self, run: RunSpec, progress: Progress, task: TaskID) -> None:
        """One run, unless it is completed."""
        method, seed = run.method.name, run.seed
        folder = records.job_folder(self.run.folder, method, seed)
        if is_done := agree((folder / records.RESULT_NAME).exists()):
            result = records.read_job(folder).result
            progress.update(task, completed=progress.tasks[task].completed + run.budget)
        else:
            split = run.workload.load(seed)
            self._check_data(split, seed)
            if self.run.is_writer:
                folder.mkdir(parents=True, exist_ok=True)
                self._store_groups(split, seed)
            name = f"seed {seed}  {method:<12}"
            hooks = [
                Metrics(folder / records.METRICS_NAME),
                *self._taught(run, folder),
                Snapshots(folder / records.SNAPSHOTS_NAME),
                ProgressBar(progress, task, name),
                Checkpoints(
                    folder / "checkpoints",
                    seconds=self.options.checkpoint_every,
                    max_skipped=self.options.max_skipped_steps,
                    interruption=self.interruption,
                ),
            ]
            result = train(run, mesh=self.mesh, hooks=hooks)
            if self.run.is_writer:
                data = split.fingerprint
                records.store_result(folder, result, data, environment())
        wait_for_all()  # until all processes have closed their checkpoints
        if self.run.is_writer:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        _print_result(progress, run, result, is_done)

    def _taught(self, run: RunSpec, folder: Path) -> list[Hook]:
        """Nothing if a batch is the whole pool: the file would be as large as the data
        of every step."""
        if run.workload.batch_size == run.workload.num_examples:
            return []
        return [Taught(folder / records.TAUGHT_NAME)]

    def _check_data(self, split: Split, seed: int) -> None:
        """Refuse other data than the seed's completed runs had."""
        first = self.first_of_seed.get(seed)
        found = json.loads(json.dumps(split.fingerprint))
        if first is not None and first.data != found:
            raise RecordError(
                f"{first.folder} was run on other data ({first.data!r}) than there are "
                f"now ({found!r}): restore the data, or name a new folder."
            )

    def _store_groups(self, split: Split, seed: int) -> None:
        """The first seed's groups, for the figure of the examples taught."""
        if split.groups is not None and not list(self.run.folder.glob("groups-*.npy")):
            content = io.BytesIO()
            np.save(content, split.groups)
            self.run.write(f"groups-{seed}.npy", content.getvalue())


def _name_of(run: RunSpec) -> str:
    return records.job_name(run.method.name, run.seed)


def _print_result(
    progress: Progress, run: RunSpec, result: Result, is_done: bool
) -> None:
    objective = run.workload.objective
    times = "  ".join(
        f"{phase} {result.seconds.get(phase, 0.0):.1f} s"
        for phase in ("train", "score", "compile")
    )
    progress.console.print(
        f"seed {run.seed}  {result.method:<12} "
        f"{objective.measure.replace('_', ' ')} "
        f"{result.measures[objective.measure]:.2f}  {times}"
        f"{'  (done before)' * is_done}",
        soft_wrap=True,
    )
