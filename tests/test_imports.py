"""Layering: experiments -> theory -> attent_jax, and what each may import."""

import ast
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

from attent_jax.scores import masked_mean

ROOT = Path(__file__).parent.parent
LAYERS = ["attent_jax", "theory", "experiments", "tests"]
NOT_THE_LIBRARYS = {"matplotlib", "tyro", "rich", "scipy", "neural_tangents"}
NOBODYS = {"tensorflow", "torch", "jax._src"}
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
    assert set(violations(layer, above | NOBODYS)) <= {IN_TORCH}


def test_the_library_draws_no_plots_and_parses_no_arguments():
    assert (ROOT / "attent_jax" / "__init__.py").exists()
    assert violations("attent_jax", NOT_THE_LIBRARYS) == []


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
