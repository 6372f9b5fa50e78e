"""Measures exported models on the machine that runs them: size, latency, memory, score."""
