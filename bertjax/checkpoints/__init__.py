"""Checkpoints on a disk or gs://: save, restore and verify."""
