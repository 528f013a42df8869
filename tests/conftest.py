"""One cache of compiled programs for the whole suite."""

import os
import tempfile

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "ez_jax_tests_cache"))

from ez_jax.run import setup  # noqa: E402

setup()
