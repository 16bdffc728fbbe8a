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


def test_importing_the_library_is_light():
    heavy = ("tensorflow", "torch", "matplotlib", "tyro", "experiments")
    program = f"import sys, attent_jax; print([n for n in {heavy} if n in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"


def test_array_annotations_are_checked_while_testing():
    # else every annotation could lie
    with pytest.raises(jaxtyping.TypeCheckError):
        masked_mean(jnp.ones((2, 3), jnp.int32))


def loaded_by(program: str) -> list[str]:
    """Which of the optional packages a program loads."""
    heavy = ("flax", "orbax", "grain", "tensorstore", "hypothesis", "beartype")
    program = f"{program}\nimport sys; print([n for n in {heavy} if n in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode == 0, finished.stderr
    return ast.literal_eval(finished.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("program", "loaded"),
    [
        ("import attent_jax; dir(attent_jax)", []),
        (
            "from attent_jax import data, distributed, schedules, scores, selectors\n"
            "from attent_jax import teachers, training, typing",
            [],
        ),
        ("import attent_jax; attent_jax.models.VisionTransformer", ["flax"]),
        ("from attent_jax.models import VisionTransformer", ["flax"]),
        ("from attent_jax import checkpointing", ["orbax", "tensorstore"]),
        # nothing is read ahead, so nothing needs grain
        (
            "import numpy as np; from attent_jax import data\n"
            "data.take(data.SourcePool([1, 2]), np.array([0]))",
            [],
        ),
    ],
)
def test_flax_orbax_and_grain_are_loaded_when_first_used(program, loaded):
    found = loaded_by(program)
    # orbax may bring others of them along
    assert set(loaded) <= set(found)
    assert loaded or found == []
    assert "grain" not in found


def test_the_library_lists_what_it_loads_later():
    assert {"checkpointing", "models", "data"} <= set(dir(attent_jax))
    public = {name for name in dir(attent_jax) if not name.startswith("_")}
    assert public == set(attent_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'modles'"):
        _ = attent_jax.modles  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_library_touches_no_device(monkeypatch):
    # else jax.distributed.initialize would come too late
    monkeypatch.setenv("JAX_PLATFORMS", "none_such")
    assert loaded_by(
        "from attent_jax import checkpointing, data, distributed, models, schedules\n"
        "from attent_jax import scores, selectors, teachers, training"
    )
