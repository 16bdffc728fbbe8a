"""Ratio and interval over time, and the teaching plan that follows from them."""

from attent_jax.schedules._curves import constant, cosine, linear, step
from attent_jax.teachers._plan import TeachingPlan, teaching_plan

__all__ = ["TeachingPlan", "constant", "cosine", "linear", "step", "teaching_plan"]
