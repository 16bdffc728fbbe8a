"""Random draws inside `jax.checkpoint`, kept instead of drawn again.

A checkpointed function runs a second time in the backward pass, there on the selected
rows only. A draw for each place would then give a row the mask of another one. So its
policy is made to save random draws. They are what dropout saves without a checkpoint.
"""

from typing import Any

from jax.extend.core import JaxprEqn

from attent_jax.training.selective._compare_programs import (
    Program,
    is_closed,
    open_program,
    programs_in,
)
from attent_jax.training.selective._row_rules import RANDOM
from attent_jax.training.selective._row_values import names

_CHECKPOINTS = names("checkpoint remat remat2")
_REWRITTEN = _CHECKPOINTS | names("jit pjit closed_call core_call scan cond while")


def save_random_draws(program: Program) -> Program:
    """The program, its checkpoints saving the random draws within."""
    inner = open_program(program)
    eqns = [_rewritten(eqn) for eqn in inner.eqns]
    if all(new is old for new, old in zip(eqns, inner.eqns, strict=True)):
        return program
    inner = inner.replace(eqns=eqns)
    return program.replace(jaxpr=inner) if is_closed(program) else inner


def _rewritten_param(value: Any) -> Any:
    if isinstance(value, tuple):
        items = tuple(save_random_draws(item) for item in value)
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return items if changed else value
    return save_random_draws(value)


def _rewritten(eqn: JaxprEqn) -> JaxprEqn:
    if eqn.primitive.name not in _REWRITTEN or not _draws(eqn):
        return eqn
    params = {
        name: _rewritten_param(value)
        for name, value in eqn.params.items()
        if programs_in(value)
    }
    if eqn.primitive.name in _CHECKPOINTS:
        params["policy"] = _saving_draws(eqn.params["policy"])
    if all(params[name] is eqn.params[name] for name in params):
        return eqn
    return eqn.replace(params={**eqn.params, **params})


def _draws(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in RANDOM or any(
        _draws(inner)
        for value in eqn.params.values()
        for program in programs_in(value)
        for inner in open_program(program).eqns
    )


def _saving_draws(policy: Any) -> Any:
    def save_draws(primitive, *args, **params):
        if primitive.name in RANDOM:
            return True
        return policy is not None and policy(primitive, *args, **params)

    return save_draws
