"""Training: one step, a whole run, its state on disk."""
