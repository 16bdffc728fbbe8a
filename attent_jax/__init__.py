"""Online example selection for training attention networks, in JAX."""

from attent_jax import schedules, scores, selectors, teachers
