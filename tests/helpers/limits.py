"""What a hostile source may cost before it is refused."""

# The promise is 2 s of processor time; benchmarks/RESULTS.md has it measured. A machine that runs
# other things too takes up to twice as long for the same work, and a test must not depend on that.
CPU_SECONDS = 15.0  # an import of JAX takes 3, and twice that beside other work
PEAK_BYTES = 500 << 20
