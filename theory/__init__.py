"""The neural tangent kernel of attention: empirical, in closed form, and its limit.

Kernels are in neural-tangents' layout (see `theory.layout`). Compute in float64
(`jax.config.update("jax_enable_x64", True)`), because the quantities of interest are
small differences of large kernels.
"""
