"""What cannot be run ends with one sentence, exit status 2 and a way on, at once."""

import fcntl
import json
import shutil
from types import SimpleNamespace

import pytest

from attent_jax.checkpointing import Checkpointer
from experiments import __main__
from experiments.study import records, study
from experiments.study.hooks import Checkpoints
from experiments.study.paired_statistics import Result
from experiments.study.preemption import Interruption
from experiments.study.workdir import CONFIG_NAME
from tests.experiments import tiny_study


@pytest.fixture
def refusal(monkeypatch, capsys, tmp_path):
    """The sentence with which a command line is refused before anything is trained."""
    monkeypatch.setitem(__main__._COMMANDS, "tiny", (tiny_study.__name__, "Tiny"))

    def train(*_, **__):
        raise AssertionError("training has started")

    monkeypatch.setattr(study, "train", train)

    def refuse(*arguments: object) -> str:
        try:
            status = __main__.main(["tiny", *map(str, arguments)])
        except SystemExit as leaving:
            status = leaving.code
        assert status == 2
        unlock(tmp_path)
        text = capsys.readouterr().err
        assert "Traceback" not in text
        return " ".join(text.replace("│", " ").split())

    return refuse


def unlock(folder):
    """A process keeps its locks until it ends, and here one process does all."""
    for lock in folder.rglob(".lock"):
        lock.unlink()


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folder of a study that was interrupted in its first run."""

    def train(*_, **__):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(study, "train", train)
        assert tiny_study.run(folder) == 130
    unlock(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint-every", "nan"], "checkpoint_every must be at least 0, got nan"),
        (["--checkpoint-every", "-1"], "checkpoint_every must be at least 0, got -1"),
        (["--max-skipped-steps", "-1"], "max_skipped_steps must be at least 0, got -1"),
        (["--seeds", "x"], "seeds must be a number such as 6"),
        (["--seeds", "5-2"], "seeds must be a number such as 6"),
        (["--seeds", "0"], "seeds must be a number such as 6"),
        (["--seeds", "1,1"], "seeds must be a number such as 6"),
        (["--seeds", "20260101"], "of at most 10,000 seeds, got '20260101'"),
        (["--epochs", "nan"], "epochs must be a number above 0, got nan"),
        (["--epochs", "inf"], "epochs must be a number above 0, got inf"),
        (["--epochs", "0.001"], "train for more epochs"),
        (
            ["--methods", "bogus"],
            "methods has 'bogus', which tiny does not have: choose",
        ),
        (["--methods", "recommended", "recommended"], "methods has duplicates"),
        (["--preset", "huge"], "invalid choice 'huge'"),
        (["--bogus"], "--bogus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options(refusal, tmp_path, arguments, message):
    assert message in refusal("--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_no_time_is_too_long_between_checkpoints():
    _, options = __main__.parse(["demo", "--checkpoint-every", "inf"])
    assert options.run.checkpoint_every == float("inf")


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
def test_folders_that_are_not_a_runs(refusal, tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("mine")
    message = refusal("--out", tmp_path, *resume)
    assert "is not the folder of a run: name a new one" in message
    message = refusal("--out", tmp_path / "thesis.tex", *resume)
    assert "is not the folder of a run: name a new one" in message
    message = refusal("--out", tmp_path / "thesis.tex" / "run", *resume)
    assert "cannot be created (Not a directory): name another folder" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_needs_a_folder(refusal):
    assert "resume needs a folder: pass one with --out" in refusal("--resume")


def test_the_folder_of_another_run(refusal, begun):
    content = (begun / CONFIG_NAME).read_text()
    assert "or pass --resume to continue it" in refusal("--out", begun)
    resumed = ("--out", begun, "--resume")
    assert "was run with epochs=3, not 4.0" in refusal(*resumed, "--epochs", 4)
    older = json.loads(content) | {"dropout": 0.5}
    (begun / CONFIG_NAME).write_text(json.dumps(older))
    assert "was run with dropout=0.5, not None" in refusal(*resumed)
    for damaged in ("{", "3", "\ufeff"):
        (begun / CONFIG_NAME).write_text(damaged)
        assert f"damaged {CONFIG_NAME}: name a new folder" in refusal(*resumed)


def test_two_at_once_in_one_folder(refusal, begun):
    with (begun / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refusal("--out", begun, "--resume")
    assert "is being written by another run: wait until it ends" in message


RESULT = Result("recommended", "method", 0, {"accuracy": 9.0}, 1, 1, {}, 1, 0, 0.1)


def test_results_that_were_altered(refusal, begun):
    folder = records.job_folder(begun, "recommended", 0)  # the last one
    folder.mkdir(parents=True)
    path = folder / records.RESULT_NAME
    records.store_result(folder, RESULT, 0, {})
    path.write_text(path.read_text().replace("9.0", "99.0"))
    message = refusal("--out", begun, "--resume")
    assert "its checksum does not match): remove the folder" in message
    path.write_text("{")
    message = refusal("--out", begun, "--resume")
    assert f"remove the folder {folder} and run it again with --resume" in message


def test_results_whose_other_files_changed(refusal, begun):
    folder = records.job_folder(begun, "recommended", 0)
    folder.mkdir(parents=True)
    (folder / records.METRICS_NAME).write_text("{}\n")
    records.store_result(folder, RESULT, 0, {})
    (folder / records.METRICS_NAME).write_text("{}")
    message = refusal("--out", begun, "--resume")
    assert "has 2 bytes, but had 3 when the run was completed" in message
    (folder / records.METRICS_NAME).write_text("{}\n")
    folder.rename(folder.with_name("recommended-7"))
    message = refusal("--out", begun, "--resume")
    assert "recommended-7 has the run recommended-0: rename the folder" in message


def test_results_on_other_data(refusal, begun):
    folder = records.job_folder(begun, "recommended", 0)
    folder.mkdir(parents=True)
    records.store_result(folder, RESULT, "older data", {})
    message = refusal("--out", begun, "--resume")
    assert "was run on other data ('older data') than there are now (0)" in message


def test_results_of_another_version(refusal, begun):
    folder = records.job_folder(begun, "recommended", 0)
    folder.mkdir(parents=True)
    records.store_result(folder, RESULT, 0, {})
    content = json.loads((folder / records.RESULT_NAME).read_text())
    del content["sha256"]
    content["result"]["quality"] = content["result"].pop("measures")
    content["sha256"] = records._digest(content)
    (folder / records.RESULT_NAME).write_text(json.dumps(content))
    message = refusal("--out", begun, "--resume")
    assert "was stored by another version of this project" in message
    assert f"remove the folder {folder} and run it again with --resume" in message


def test_a_batch_that_does_not_divide_over_the_processes(
    refusal, monkeypatch, tmp_path
):
    monkeypatch.setattr(study.jax, "devices", lambda: [None] * 3)
    monkeypatch.setattr(study.jax, "process_count", lambda: 3)
    message = refusal("--out", tmp_path / "run")
    assert "examples does not divide over the 3 devices of 3 processes" in message
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint(tmp_path):
    target = {"w": tiny_study.examples(0)["x"]}
    job = tmp_path / "recommended-0"
    folder = job / "checkpoints" / "training"
    with Checkpointer(folder, target, identity={}) as checkpointer:
        checkpointer.save(1, target)
    (folder / "1" / "record" / "metadata").write_text("{")
    hook = Checkpoints(
        job / "checkpoints", seconds=1, max_skipped=0, interruption=Interruption()
    )
    with pytest.raises(ValueError, match="record cannot be read") as raised:
        hook.resume("training", target, {})
    hook.close()
    assert f"starts again once you remove {job}" in str(raised.value)


def test_a_disk_without_room_for_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    hook = Checkpoints(tmp_path, seconds=1, max_skipped=0, interruption=Interruption())
    with pytest.raises(ValueError, match=r"make room.*Then continue with --resume"):
        hook.resume("training", {"w": tiny_study.examples(0)["x"]}, {})
