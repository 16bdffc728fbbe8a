"""The experiments' command line."""

import sys

import tyro

from attent_jax import distributed
from attent_jax.checkpointing import CheckpointError
from experiments import demo, kernel_convergence

_EXPERIMENTS = {
    "demo": (demo.Demo, demo.main),
    "kernel-convergence": (
        kernel_convergence.KernelConvergence,
        kernel_convergence.main,
    ),
}


def main() -> int:
    """Run the experiment named on the command line; returns the exit status."""
    config = tyro.extras.subcommand_cli_from_dict(
        {name: config for name, (config, _) in _EXPERIMENTS.items()},
        prog="python -m experiments",
        description="Experiments with example selection for attention networks.",
    )
    mains = dict(_EXPERIMENTS.values())
    try:
        if getattr(config, "distributed", False):
            distributed.initialize()  # before anything uses a device
    except (TypeError, ValueError, RuntimeError) as error:
        return _refuse(error)
    try:
        return mains[type(config)](config)
    except (OSError, CheckpointError) as error:
        return _refuse(error)
    except ModuleNotFoundError as error:
        if error.name != "neural_tangents":
            raise
        return _refuse(error)


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
