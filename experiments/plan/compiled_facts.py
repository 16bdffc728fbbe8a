"""What a compiled program needs: memory and communication on one device."""

import re
from math import prod
from typing import Any, NamedTuple

_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-done)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d+)?\w*\[([\d,]*)\]")


class Memory(NamedTuple):
    """Bytes on one device."""

    arguments: int
    outputs: int
    """Without those that take the place of donated arguments."""
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Collectives(NamedTuple):
    """The collectives of one kind."""

    number: int
    bytes: int
    """That they produce on one device; a loop's body counts once."""


def memory_of(compiled: Any) -> Memory:
    """Of a `jax.stages.Compiled`."""
    found = compiled.memory_analysis()
    return Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
    )


def flops_of(program: Any) -> float:
    """Of a `jax.stages.Lowered` or `Compiled`, on one device."""
    return float((program.cost_analysis() or {}).get("flops", 0.0))


def collectives_of(text: str) -> dict[str, Collectives]:
    """By kind, from the text of a compiled program.

    Example:
      >>> collectives_of("%sum = (f32[8]{0}, pred[2,3]) all-reduce(%x, %y)")
      {'all-reduce': Collectives(number=1, bytes=38)}
    """
    found: dict[str, Collectives] = {}
    for results, kind in _COLLECTIVE.findall(text):
        before = found.get(kind, Collectives(0, 0))
        found[kind] = Collectives(before.number + 1, before.bytes + _size(results))
    return found


def _size(arrays: str) -> int:
    total = 0
    for kind, bits, shape in _ARRAY.findall(arrays):
        size = 1 if kind == "pred" else int(bits or 8) // 8
        total += size * prod(int(n) for n in shape.split(",") if n)
    return total
