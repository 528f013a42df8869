"""Nearly all the time of the suite is compilation: one cache of compiled programs, and little
optimisation.
"""

import getpass
import os
import tempfile

import jax

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jax.__version_info__ < (0, 12):  # an unknown flag ends the process
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # the older emitters compile a third faster
os.environ.setdefault("XLA_FLAGS", FLAGS)
USER = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"ez_jax_tests_cache-{USER}")
)

from ez_jax.runner.setup import setup  # noqa: E402

setup()
