"""The processes of a run: their start, end and loss, and the directory that one of them holds."""
