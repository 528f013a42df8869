"""The algorithm: pure functions for one seed, without compilation, meshes or files."""
