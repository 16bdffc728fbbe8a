"""When to score, when to select anew, and what is being taught."""

from attent_jax.teachers._attent import attent, full, one_shot
from attent_jax.teachers._recommended import recommended

__all__ = ["attent", "full", "one_shot", "recommended"]
