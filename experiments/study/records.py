"""Stored results: one folder per job, read back and merged."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from experiments.study.hooks import read_snapshots, read_taught
from experiments.study.paired_statistics import Result
from experiments.study.workdir import (
    ASKED_NAME,
    CONFIG_NAME,
    GrowingFile,
    RecordError,
    as_json_line,
    write_atomically,
)
from experiments.study.workload import Objective

_Made = TypeVar("_Made")

RESULT_NAME, METRICS_NAME, TAUGHT_NAME = "result.json", "metrics.jsonl", "taught.ids"
SNAPSHOTS_NAME = "snapshots"


class Job(NamedTuple):
    """A completed run."""

    result: Result
    data: Any
    """The fingerprint of its data."""
    environment: Mapping[str, str]
    folder: Path
    sizes: Mapping[str, int]
    """Bytes of its other files."""

    def lines(self, key: str) -> list[dict[str, Any]]:
        """The lines of its metrics that have this key."""
        text = (self.folder / METRICS_NAME).read_text()
        return [line for line in map(json.loads, text.splitlines()) if key in line]

    def evaluations(self, measure: str) -> list[tuple[float, float]]:
        """`(cost, measure)` of each evaluation that has the measure."""
        return [
            (line["cost"], _with_nan(line["measures"])[measure])
            for line in self.lines("measures")
            if measure in line["measures"]
        ]

    def taught(self) -> list[Int[np.ndarray, "taught"]]:
        """The ids taught in each epoch."""
        ends = [epoch["num_taught"] for epoch in self.lines("num_taught")]
        return np.split(read_taught(self.folder / TAUGHT_NAME), ends[:-1])

    def snapshots(self) -> dict[int, dict[str, np.ndarray]]:
        """The arrays kept of each evaluation, by the number of steps taken."""
        return read_snapshots(self.folder / SNAPSHOTS_NAME)


class Study(NamedTuple):
    """All completed runs of a study, and what it is about."""

    title: str
    description: str
    objective: Objective
    groups: Sequence[str]
    """Names of the groups."""
    config: Mapping[str, Any]
    jobs: Sequence[Job]
    labels: Mapping[int, Int[np.ndarray, "pool"]]
    """By seed, where stored: each example's group."""

    @property
    def results(self) -> list[Result]:
        """One per run."""
        return [job.result for job in self.jobs]


def store_result(
    folder: Path, result: Result, fingerprint: Any, environment: Mapping[str, str]
) -> None:
    """Store a run's result; it is completed then."""
    content = {
        "result": dataclasses.asdict(result),
        "data": fingerprint,
        "environment": environment,
        "sizes": _sizes(folder),
    }
    write_atomically(folder / RESULT_NAME, sealed(content))


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the other files of a run, which are then on the disk."""
    names = (METRICS_NAME, TAUGHT_NAME)
    return {name: GrowingFile(folder / name).size for name in names}


def sealed(content: Mapping[str, Any]) -> bytes:
    """The content of a job's `RESULT_NAME`, with its checksum."""
    return as_json_line({**content, "sha256": _digest(content)}).encode()


def job_name(method: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{method}-{seed}"


def job_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a run of a study is."""
    return folder / "jobs" / job_name(method, seed)


def read_job(folder: Path) -> Job:
    """A completed run.

    Raises:
      RecordError: as `read_sealed`, or if another file of the run has changed.
    """

    def make(content: dict[str, Any]) -> Job:
        fields = content["result"]
        fields["measures"] = _with_nan(fields["measures"])
        return Job(
            Result(**fields),
            content["data"],
            content["environment"],
            folder,
            content["sizes"],
        )

    job = read_sealed(folder, make)
    name = job_name(job.result.method, job.result.seed)
    if name != folder.name:
        raise RecordError(f"{folder} has the run {name}: rename the folder.")
    for name, size in job.sizes.items():
        path = folder / name
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise RecordError(
                f"{path} has {found} bytes, but had {size} when the run was completed: "
                f"restore it, or remove the folder {folder} and run it again with "
                f"--resume."
            )
    return job


def _with_nan(measures: Mapping[str, float | None]) -> dict[str, float]:
    """Measures as they were before JSON, which has no NaN."""
    return {name: math.nan if m is None else m for name, m in measures.items()}


def read_sealed(folder: Path, make: Callable[[dict[str, Any]], _Made]) -> _Made:
    """What a completed job stored.

    Args:
      folder: the job's.
      make: builds what is returned from the content.

    Raises:
      RecordError: if the file is damaged, was altered, or is another version's.
    """
    path = folder / RESULT_NAME
    try:
        content = json.loads(path.read_text())
        digest = content.pop("sha256")
        if digest != _digest(content):
            raise ValueError("its checksum does not match")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{path} is damaged or was altered ({error}): remove the folder {folder} "
            f"and run it again with --resume."
        ) from error
    try:
        return make(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{path} was stored by another version of this project ({error}): use that "
            f"version, or remove the folder {folder} and run it again with --resume."
        ) from error


def read_study(folders: Sequence[Path]) -> Study:
    """The completed runs of one study, from one folder or several.

    Raises:
      RecordError: if the folders are not parts of one study, or have a run in common.
    """
    config = read_config(folders)
    jobs = [read_job(folder) for folder in completed_jobs(folders)]
    data_of: dict[int, Job] = {}
    for job in jobs:
        check_same_data(data_of.setdefault(job.result.seed, job), job)
    order = {name: i for i, name in enumerate(config["methods"])}
    labels = {
        int(path.stem.removeprefix("groups-")): np.load(path)
        for folder in folders
        for path in sorted(folder.glob("groups-*.npy"))
    }
    return Study(
        title=config["title"],
        description=config["description"],
        objective=Objective(**config["objective"]),
        groups=config["groups"],
        config=config,
        jobs=sorted(jobs, key=lambda job: (job.result.seed, order[job.result.method])),
        labels=labels,
    )


def check_same_data(first: Job, job: Job) -> None:
    """Refuse two runs of one seed on different data, which cannot be compared.

    Raises:
      RecordError: if their fingerprints differ.
    """
    if first.data != job.data:
        raise RecordError(
            f"{first.folder} and {job.folder} were run on different data: "
            f"{first.data!r} and {job.data!r}. Report them one by one."
        )


def read_config(folders: Sequence[Path]) -> dict[str, Any]:
    """The configuration that folders share.

    Raises:
      RecordError: if a folder is not an experiment's, or has another configuration
        than the first.
    """
    configs = [_read_config(folder) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        for name in sorted(config.keys() | configs[0].keys()):
            if config.get(name) != configs[0].get(name):
                raise RecordError(
                    f"{folder} was run with {name}={config.get(name)!r}, {folders[0]} "
                    f"with {configs[0].get(name)!r}: report them one by one."
                )
    return configs[0]


def completed_jobs(folders: Sequence[Path]) -> list[Path]:
    """The folders of the completed jobs.

    Raises:
      RecordError: if two folders have the same job.
    """
    found: dict[str, Path] = {}
    results = (folder.glob(f"jobs/*/{RESULT_NAME}") for folder in folders)
    for job in sorted(path.parent for path in itertools.chain(*results)):
        if job.name in found:
            raise RecordError(
                f"{found[job.name]} and {job} are the same run: name folders that have "
                f"no run in common."
            )
        found[job.name] = job
    return list(found.values())


def has_all_jobs(folders: Sequence[Path]) -> bool:
    """Whether every job that was asked for is completed."""
    paths = [path for folder in folders if (path := folder / ASKED_NAME).exists()]
    asked = {name for path in paths for name in json.loads(path.read_text())}
    return asked <= {job.name for job in completed_jobs(folders)}


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_NAME).read_text())
        if not {"title", "description"} <= config.keys():
            raise ValueError("its configuration has no title")
        return config
    except (OSError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{folder} is not the folder of a study ({error}): name one that has a "
            f"{CONFIG_NAME}, such as the one that --out named."
        ) from error


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(as_json_line(content)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
