"""Fine-tuning: the tasks of the papers and a user's own, from labelled files to scores."""
