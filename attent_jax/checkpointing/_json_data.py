"""JSON data: refused where it would not come back, compared field by field."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

_MAX_DIFFERENCES = 3  # told in one message


def as_json(name: str, value: Any) -> Any:
    """`value` as it comes back from JSON; refuses what would not."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [as_json(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}: use strings for keys.")
        return {key: as_json(f"{name}.{key}", item) for key, item in value.items()}
    raise TypeError(
        f"{name} must be JSON data, got {reprlib.repr(value)} of type "
        f"{type(value).__name__}: use numbers, strings, lists and dicts, e.g. int(...) "
        f"or .tolist() of an array, and put arrays into the state."
    )


def told_differences(saved: Any, now: Any) -> str:
    """The first fields that differ, with both values; empty if none does."""
    differences = list(_differences("", saved, now))
    told = differences[:_MAX_DIFFERENCES]
    if more := len(differences) - len(told):
        told.append(f"and {more} more")
    return "; ".join(told)


def _differences(path: str, saved: Any, now: Any) -> Iterator[str]:
    """Each field that differs, by its dotted path, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in {**now, **saved}:
            pair = (side.get(key, ...) for side in (saved, now))
            yield from _differences(f"{path}.{key}".lstrip("."), *pair)
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for i, pair in enumerate(zip(saved, now, strict=True)):
            yield from _differences(f"{path}[{i}]", *pair)
    elif saved != now and not (saved != saved and now != now):  # NaN is as it was
        was, is_now = (
            "not there" if value is ... else reprlib.repr(value)
            for value in (saved, now)
        )
        yield f"{path} was {was}, now it is {is_now}"
