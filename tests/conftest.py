"""Nearly all the time of the suite is compilation: one cache of compiled programs, and little optimisation."""

import os
import tempfile

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "ez_jax_tests_cache"))

from ez_jax.run import setup  # noqa: E402

setup()
