"""Online example selection for training attention networks, in JAX."""
