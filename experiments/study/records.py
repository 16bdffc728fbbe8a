"""The stored results of a study: one folder per run, read back and merged."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.study.hooks import read_taught
from experiments.study.paired_statistics import Result
from experiments.study.workdir import CONFIG_NAME, RecordError, as_json_line
from experiments.study.workload import Objective

RESULT_NAME, METRICS_NAME, TAUGHT_NAME = "result.json", "metrics.jsonl", "taught.ids"


class Job(NamedTuple):
    """A completed run."""

    result: Result
    environment: Mapping[str, str]
    folder: Path

    def lines(self, key: str) -> list[dict[str, Any]]:
        """The lines of its metrics that have this key."""
        text = (self.folder / METRICS_NAME).read_text()
        return [line for line in map(json.loads, text.splitlines()) if key in line]

    def taught(self) -> list[Int[np.ndarray, "taught"]]:
        """The ids taught in each epoch."""
        ends = [epoch["num_taught"] for epoch in self.lines("num_taught")]
        return np.split(read_taught(self.folder / TAUGHT_NAME), ends[:-1])


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


def store_result(result: Result, environment: Mapping[str, str]) -> bytes:
    """The content of a result's file."""
    content = {"result": dataclasses.asdict(result), "environment": environment}
    return as_json_line({**content, "sha256": _digest(content)}).encode()


def job_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a run of a study is."""
    return folder / "jobs" / f"{method}-{seed}"


def read_job(folder: Path) -> Job:
    """A completed run.

    Raises:
      RecordError: if the file is damaged or was altered.
    """
    path = folder / RESULT_NAME
    try:
        content = json.loads(path.read_text())
        digest = content.pop("sha256")
        if digest != _digest(content):
            raise ValueError("its checksum does not match")
        return Job(Result(**content["result"]), content["environment"], folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{path} is damaged or was altered ({error}): remove the folder {folder} "
            f"and run it again with --resume."
        ) from error


def read_study(folders: Sequence[Path]) -> Study:
    """The completed runs of one study, from one folder or several.

    Raises:
      RecordError: if a folder is not a study's, has another configuration than the
        first, or has a run that another has, too.
    """
    configs = [_read_config(folder) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        for name in sorted(config.keys() | configs[0].keys()):
            if config.get(name) != configs[0].get(name):
                raise RecordError(
                    f"{folder} was run with {name}={config.get(name)!r}, {folders[0]} "
                    f"with {configs[0].get(name)!r}: report them one by one."
                )
    paths = sorted(
        path for folder in folders for path in folder.glob(f"jobs/*/{RESULT_NAME}")
    )
    jobs: dict[tuple[str, int], Job] = {}
    for job in [read_job(path.parent) for path in paths]:
        key = job.result.method, job.result.seed
        if key in jobs:
            raise RecordError(
                f"{jobs[key].folder} and {job.folder} are the same run: name folders "
                f"with different seeds or methods."
            )
        jobs[key] = job
    order = {name: i for i, name in enumerate(configs[0]["methods"])}
    labels = {
        int(path.stem.removeprefix("groups-")): np.load(path)
        for folder in folders
        for path in sorted(folder.glob("groups-*.npy"))
    }
    return Study(
        title=configs[0]["title"],
        description=configs[0]["description"],
        objective=Objective(**configs[0]["objective"]),
        groups=configs[0]["groups"],
        config=configs[0],
        jobs=sorted(
            jobs.values(), key=lambda job: (job.result.seed, order[job.result.method])
        ),
        labels=labels,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_NAME).read_text())
        if not {"title", "objective", "methods"} <= config.keys():
            raise ValueError("of another kind of experiment")
        return config
    except (OSError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{folder} is not the folder of a study ({error}): name one that has a "
            f"{CONFIG_NAME}, such as the one that --out named."
        ) from error


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(as_json_line(content)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
