"""A checkpoint on a disk or on gs://: written, found whole, restored, verified."""
