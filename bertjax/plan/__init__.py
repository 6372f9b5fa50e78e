"""What a run would take on hardware that need not be there: memory, time, links."""
