"""Distillation from a frozen teacher: its weights, the losses, the student's initial weights."""
