"""From the outputs of a model to figures, tables, pictures and submissions."""
