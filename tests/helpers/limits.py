"""What a hostile source may cost before it is refused."""

# The promise is 2 s of processor time; benchmarks/RESULTS.md has it measured. A run's directory
# takes 3, for the import of JAX; a machine that runs other things too has taken 7.3 for that.
CPU_SECONDS = 15.0
PEAK_BYTES = 500 << 20
