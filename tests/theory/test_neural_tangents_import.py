"""neural-tangents is lent what it needs while it is imported, and leaves no trace."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]

SETTING = """
import importlib, importlib.abc, json, sys
import jax, jax.core, jax.extend.core, jax.interpreters.ad

TOUCHED = jax.core, jax.interpreters.ad, jax.extend.core

def state():
    return [dict(vars(module)) for module in TOUCHED], sys.modules.get("jax.util")

def is_unchanged(before):
    names, util = state()
    return util is before[1] and all(
        now.keys() == then.keys() and all(now[name] is then[name] for name in now)
        for now, then in zip(names, before[0], strict=True))
"""

IMPORT = """
before = state()
vars(jax.core)["Var"] = mine = object()  # a user's, say: it must come back
from theory._neural_tangents import neural_tangents as nt
report = {"mine_kept": vars(jax.core).pop("Var") is mine}
report["unchanged"] = is_unchanged(before)
report["unwanted"] = [n for n in ("tensorflow", "tf2jax") if n in sys.modules]
report["version"] = nt.__version__
try:
    nt.experimental.anything
except AttributeError as error:
    report["experimental"] = str(error)
print(json.dumps(report))
"""

# Three ways to fail in one process: each must leave it fit for the next.
FAILURES = """
class Absent(importlib.abc.MetaPathFinder):
    def __init__(self, name):
        self.name = name
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def attempt():
    before = state()
    try:
        importlib.import_module("theory._neural_tangents")
    except ImportError as error:
        return {
            "error": [type(error).__name__, str(error)],
            "left": [n for n in sys.modules if n.startswith("neural_tangents")],
            "unchanged": is_unchanged(before)}
    return "imported"

def without(name):
    sys.meta_path.insert(0, Absent(name))
    report = attempt()
    sys.meta_path.pop(0)
    return report

reports = {}
var = vars(jax.extend.core).pop("Var")
reports["a name of jax is gone"] = attempt()
jax.extend.core.Var = var
reports["it breaks halfway"] = without("frozendict")
reports["it is not installed"] = without("neural_tangents")
reports["at last"] = attempt()
print(json.dumps(reports))
"""


def run(program: str):
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SETTING + program],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def imported():
    return run(IMPORT)


@pytest.fixture(scope="module")
def failures():
    return run(FAILURES)


def test_import_leaves_jax_as_it_was(imported):
    assert imported["mine_kept"]
    assert imported["unchanged"]


def test_import_brings_no_tensorflow(imported):
    assert imported["unwanted"] == []


def test_the_submodule_that_needs_tensorflow_says_so(imported):
    assert (
        "neural_tangents.experimental.anything needs Tensor"
        in (imported["experimental"])
    )
    assert "import neural_tangents without attent-jax" in imported["experimental"]


BREAKS = pytest.mark.parametrize(
    ("how", "cause"),
    [("a name of jax is gone", "'Var'"), ("it breaks halfway", "'frozendict'")],
)


@BREAKS
def test_broken_import_names_both_versions_and_the_cause(
    failures, imported, how, cause
):
    kind, message = failures[how]["error"]
    assert kind == "ImportError"
    assert f"neural-tangents {imported['version']} cannot" in message
    assert f"on jax {jax.__version__} (" in message
    assert cause in message
    assert "theory/_neural_tangents.py" in message


def test_missing_package_is_told_with_the_remedy(failures):
    kind, message = failures["it is not installed"]["error"]
    assert kind == "ModuleNotFoundError"
    assert "make setup" in message
    assert "pip install --no-deps neural-tangents frozendict" in message


@pytest.mark.parametrize(
    "how", ["a name of jax is gone", "it breaks halfway", "it is not installed"]
)
def test_failed_import_leaves_nothing_behind(failures, how):
    assert failures[how]["left"] == []
    assert failures[how]["unchanged"]


def test_import_succeeds_after_failures(failures):
    assert failures["at last"] == "imported"
