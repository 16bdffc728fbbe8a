"""The one place that imports neural-tangents.

neural-tangents 0.6.5 was written for a jax that kept a few names in other modules. It
also imports TensorFlow for a submodule that is not used here. Both are provided while
it is imported and removed afterwards, so that no module of jax stays changed.

Two of its four implementations of the empirical NTK work on today's jax:
`JACOBIAN_CONTRACTION` and `NTK_VECTOR_PRODUCTS`.
"""

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from importlib.metadata import version

import jax
import jax.core
import jax.extend.core
import jax.interpreters.ad

__all__ = ["known_warnings", "neural_tangents"]

_ABSENT = object()


@contextlib.contextmanager
def _names_of_older_jax() -> Iterator[None]:
    """Add the names that neural-tangents looks for to jax, and remove them again."""
    core = jax.extend.core
    lent = {
        jax.core: {
            name: getattr(core, name)
            for name in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")
        },
        jax.interpreters.ad: {"zeros_like_p": core.Primitive("zeros_like")},
    }
    util = types.ModuleType("jax.util")
    vars(util).update(safe_map=_safe_map, safe_zip=_safe_zip)
    before = {module: dict(vars(module)) for module in lent}
    util_before = sys.modules.get("jax.util")
    try:
        for module, names in lent.items():
            vars(module).update(names)
        sys.modules["jax.util"] = util
        yield
    finally:
        for module, names in lent.items():
            for name in names:
                if (value := before[module].get(name, _ABSENT)) is _ABSENT:
                    vars(module).pop(name)
                else:
                    setattr(module, name, value)
        if util_before is None:
            del sys.modules["jax.util"]
        else:
            sys.modules["jax.util"] = util_before


@contextlib.contextmanager
def known_warnings() -> Iterator[None]:
    """Silence jax's warnings about neural-tangents, and its own about tied weights."""
    with warnings.catch_warnings():
        for message in ("size requires ndarray", "Linear scaling attention used"):
            warnings.filterwarnings("ignore", message)
        yield


def _safe_map(function, *sequences):
    return [function(*items) for items in _safe_zip(*sequences)]


def _safe_zip(*sequences):
    return list(zip(*sequences, strict=True))


def _without_tensorflow() -> types.ModuleType:
    """A placeholder for the submodule that needs TensorFlow."""
    experimental = types.ModuleType("neural_tangents.experimental")

    def absent(name: str):
        raise AttributeError(
            f"neural_tangents.experimental.{name} needs TensorFlow, which attent-jax "
            f"does not install: import neural_tangents without attent-jax."
        )

    vars(experimental)["__getattr__"] = absent
    return experimental


def _import() -> types.ModuleType:
    if (imported := sys.modules.get("neural_tangents")) is not None:
        return imported
    modules_before = set(sys.modules)
    sys.modules["neural_tangents.experimental"] = _without_tensorflow()
    try:
        with _names_of_older_jax():
            return importlib.import_module("neural_tangents")
    except Exception as error:
        for name in set(sys.modules) - modules_before:
            if name.partition(".")[0] == "neural_tangents":
                del sys.modules[name]
        if isinstance(error, ModuleNotFoundError) and error.name == "neural_tangents":
            raise ModuleNotFoundError(
                "theory/ needs neural-tangents: run `make setup` in the repository, or "
                "pip install --no-deps neural-tangents frozendict (with its "
                "dependencies it would install TensorFlow, which is not used here).",
                name="neural_tangents",
            ) from None
        raise ImportError(
            f"neural-tangents {version('neural-tangents')} cannot be imported on jax "
            f"{jax.__version__} ({type(error).__name__}: {error}): jax has moved "
            f"something else that it needs. Install jax 0.10 to 0.12, or lend it the "
            f"name in theory/_neural_tangents.py."
        ) from error


neural_tangents = _import()
