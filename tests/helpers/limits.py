"""Limits on the time and memory that a hostile source may take before it is refused."""

# The promise is 2 s of processor time, as measured in benchmarks/RESULTS.md. A run's directory
# takes 3 s, because JAX is imported; a busy machine has taken 7.3 s for the same.
CPU_SECONDS = 15.0
PEAK_BYTES = 500 << 20
