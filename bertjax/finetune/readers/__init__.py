"""Readers from labeled files of every layout to examples."""
