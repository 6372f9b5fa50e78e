"""Flags that make XLA compile cheaply; none with BERTJAX_TEST_OPTIMIZED=1."""

import os

CHEAP = ""
if os.environ.get("BERTJAX_TEST_OPTIMIZED", "0") == "0":
    CHEAP = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false"
    )
