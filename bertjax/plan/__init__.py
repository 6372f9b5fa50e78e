"""Plans runs on hardware that need not be present: memory, time, communication."""
