"""Learning from a frozen teacher: its weights, the losses of its outputs, the student's start."""
