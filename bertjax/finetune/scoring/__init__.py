"""Turns model outputs into figures, tables, pictures and submissions."""
