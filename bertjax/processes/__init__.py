"""The processes of a run: their start and end, lost processes, and the lock on the directory."""
