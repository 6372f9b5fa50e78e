"""Labeled files of every layout to examples."""
