"""Options for programs whose compilation takes longer than their run."""

import jax

COMPILE_FAST: dict[str, bool | int | str] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""A quarter of the time of compilation. The newest line of jax has no such options."""
if jax.__version_info__ >= (0, 11):
    COMPILE_FAST = {}
