"""The experiments' command line."""

import sys

import tyro

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
    try:
        config = tyro.extras.subcommand_cli_from_dict(
            {name: config for name, (config, _) in _EXPERIMENTS.items()},
            prog="python -m experiments",
            description="Experiments in teaching attention learners.",
        )
        mains = dict(_EXPERIMENTS.values())
        return mains[type(config)](config)
    except (FileExistsError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name != "neural_tangents":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
