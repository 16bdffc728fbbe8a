"""Layering: experiments -> theory -> attent_jax, and what each may import."""

import ast
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

import attent_jax
from attent_jax.scores import masked_mean

ROOT = Path(__file__).parent.parent
LAYERS = ["attent_jax", "theory", "experiments", "tests"]
FORBIDDEN_IN_THE_LIBRARY = {"matplotlib", "tyro", "rich", "scipy", "neural_tangents"}
FORBIDDEN_EVERYWHERE = {"tensorflow", "torch", "jax._src"}
# The peers' learner; benchmarks.peers imports it where torch is installed.
IN_TORCH = "experiments/benchmarks/torch_learner.py imports torch"


def imported_by(module: Path) -> set[str]:
    """Dotted names that a module imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(layer: str, forbidden: set[str]) -> list[str]:
    return [
        f"{module.relative_to(ROOT)} imports {name}"
        for module in sorted((ROOT / layer).rglob("*.py"))
        for name in sorted(imported_by(module))
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in forbidden)
    ]


@pytest.mark.parametrize("layer", LAYERS[:-1])
def test_imports_point_down_the_layers(layer):
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    assert set(violations(layer, above | FORBIDDEN_EVERYWHERE)) <= {IN_TORCH}


def test_the_library_draws_no_plots_and_parses_no_arguments():
    assert (ROOT / "attent_jax" / "__init__.py").exists()
    assert violations("attent_jax", FORBIDDEN_IN_THE_LIBRARY) == []


@pytest.mark.parametrize("layer", ["theory", "experiments"])
def test_upper_layers_use_the_public_surface(layer):
    # attent_jax.selectors._partition and the like may change at any time
    private = [
        f"{module.relative_to(ROOT)} imports {name}"
        for module in sorted((ROOT / layer).rglob("*.py"))
        for name in sorted(imported_by(module))
        if name.startswith("attent_jax.") and "._" in name
    ]
    assert private == []


def test_array_annotations_are_checked_while_testing():
    # else every annotation could lie
    with pytest.raises(jaxtyping.TypeCheckError):
        masked_mean(jnp.ones((2, 3), jnp.int32))


HEAVY = ("flax", "orbax", "grain", "tensorstore", "hypothesis", "beartype")
HEAVY += ("tensorflow", "torch", "matplotlib", "tyro", "experiments")


def loaded_after(*steps: str) -> list[list[str]]:
    """Which of the heavy packages a program has loaded after each of its steps."""
    show = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
    program = "\n".join(f"{step}\n{show}" for step in steps)
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode == 0, finished.stderr
    return [ast.literal_eval(line) for line in finished.stdout.splitlines()]


def test_flax_and_grain_are_loaded_when_first_used():
    *light, last = loaded_after(
        "import attent_jax; dir(attent_jax)",
        "from attent_jax import data, distributed, schedules, scores, selectors\n"
        "from attent_jax import teachers, training, typing",
        # nothing is read ahead, so nothing needs grain
        "import numpy; data.take(data.SourcePool([1, 2]), numpy.array([0]))",
        "attent_jax.models.VisionTransformer",
    )
    assert light == [[], [], []]
    assert "flax" in last
    assert "grain" not in last


def test_a_learner_is_imported_by_name():
    (loaded,) = loaded_after("from attent_jax.models import VisionTransformer")
    assert "flax" in loaded
    assert "grain" not in loaded


def test_importing_the_library_touches_no_device(monkeypatch):
    # else jax.distributed.initialize would come too late
    monkeypatch.setenv("JAX_PLATFORMS", "none_such")
    first, last = loaded_after(
        "from attent_jax import checkpointing",
        "from attent_jax import data, distributed, models, schedules, scores\n"
        "from attent_jax import selectors, teachers, training",
    )
    # orbax may bring others of them along
    assert {"orbax", "tensorstore"} <= set(first)
    assert "grain" not in last


def test_the_library_lists_what_it_loads_later():
    assert {"checkpointing", "models", "data"} <= set(dir(attent_jax))
    public = {name for name in dir(attent_jax) if not name.startswith("_")}
    assert public == set(attent_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'modles'"):
        _ = attent_jax.modles  # pyright: ignore[reportAttributeAccessIssue]
