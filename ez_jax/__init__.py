"""EfficientZero in JAX."""
