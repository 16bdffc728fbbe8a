"""The experiments' command line."""

import importlib
import inspect
import sys
from typing import Any

import tyro

from attent_jax import distributed
from attent_jax.checkpointing import CheckpointError
from experiments.study.command import Command
from experiments.study.options import OptionError

_COMMANDS = {
    "demo": ("experiments.demo", "Unicode names, a small text transformer (3 minutes)"),
    "digits": ("experiments.digits", "handwritten digits, a small ViT (2 minutes)"),
    "inr": ("experiments.inr", "pictures by coordinate networks (10 minutes)"),
    "kernel-convergence": (
        "experiments.kernel_convergence",
        "the theory's claims about the attention NTK, in eight figures (4 minutes)",
    ),
    "tune": (
        "experiments.study.tune_command",
        "find every method's peak learning rate, on seeds that are not reported",
    ),
    "plan": (
        "experiments.plan.command",
        "compile an experiment for a pod or other devices, and say what it needs",
    ),
    "report": (
        "experiments.study.report_command",
        "draw the report again from the results in one folder or several",
    ),
}
_PROG = "python -m experiments"


def parse(arguments: list[str]) -> tuple[Command, Any]:
    """The command that is named, and its options; leaves with 2 if they are wrong."""
    if not arguments or arguments[0] not in _COMMANDS:
        is_help = bool(arguments) and arguments[0] in ("-h", "--help")
        print(_usage(), file=sys.stdout if is_help else sys.stderr)
        sys.exit(0 if is_help else 2)
    name, *rest = arguments
    command: Command = importlib.import_module(_COMMANDS[name][0]).COMMAND
    options = tyro.cli(
        command.options,
        args=rest,
        prog=f"{_PROG} {name}",
        description=inspect.cleandoc(command.options.__doc__),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return command, options


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in _COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {_PROG} NAME [OPTIONS]; {_PROG} NAME --help explains the options",
            "",
            "Experiments with example selection for attention networks:",
            *lines,
        ]
    )


def main(arguments: list[str]) -> int:
    """Run the command named first; returns the exit status."""
    command, options = parse(arguments)
    try:
        if getattr(getattr(options, "run", None), "distributed", False):
            distributed.initialize()  # before anything uses a device
    except (TypeError, ValueError, RuntimeError) as error:
        return _refuse(error)
    try:
        return command.main(options)
    except (OSError, CheckpointError, OptionError) as error:
        return _refuse(error)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if error.name != "neural_tangents":
            raise
        return _refuse(error)


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
