"""Ratio and interval over time: `step -> value`."""

from attent_jax.schedules._curves import constant, cosine, linear, step

__all__ = ["constant", "cosine", "linear", "step"]
