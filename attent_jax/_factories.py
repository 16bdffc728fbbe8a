"""A readable `repr`, pickling and `help` for the functions that factories return."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

_Factory = TypeVar("_Factory", bound=Callable)


def described(factory: _Factory) -> _Factory:
    """Decorate a factory so that what it returns shows, and pickles by, its recipe.

    The factory returns a function, or a NamedTuple of functions. Pickling stores the
    factory's name and arguments, so the arguments must pickle.
    """

    @functools.wraps(factory)
    def make(*args, **kwargs):
        made: Any = factory(*args, **kwargs)
        recipe = _Recipe(make, args, kwargs)
        if fields := getattr(made, "_fields", None):
            return type(made)(
                *(
                    _Described(function, recipe, field)
                    for field, function in zip(fields, made, strict=True)
                )
            )
        return _Described(made, recipe)

    return make  # pyright: ignore[reportReturnType]


class _Recipe:
    """A factory and the arguments that it was called with."""

    def __init__(self, factory: Callable, args: tuple, kwargs: dict[str, Any]):
        self.factory, self.args, self.kwargs = factory, args, kwargs

    def __repr__(self) -> str:
        arguments = [_shown(value) for value in self.args]
        arguments += [f"{name}={_shown(value)}" for name, value in self.kwargs.items()]
        return f"{self.factory.__name__}({', '.join(arguments)})"


class _Described:
    """A function made by a factory."""

    def __init__(self, function: Callable, recipe: _Recipe, field: str | None = None):
        functools.update_wrapper(self, function)
        self._function, self._recipe, self._field = function, recipe, field

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._recipe}.{self._field}" if self._field else repr(self._recipe)

    def __reduce__(self):
        recipe = self._recipe
        return _remake, (recipe.factory, recipe.args, recipe.kwargs, self._field)


def recipe(function: Callable) -> str | None:
    """The call that made a function, or the NamedTuple it is a field of."""
    return repr(function._recipe) if isinstance(function, _Described) else None


def _remake(factory, args, kwargs, field):
    made = factory(*args, **kwargs)
    return getattr(made, field) if field else made


def _shown(value: Any) -> str:
    """A function by its name, an array by its type and shape, others by their repr."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, _Described):
        return repr(value)
    return getattr(value, "__qualname__", None) or repr(value)
