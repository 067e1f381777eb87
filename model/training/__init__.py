"""Training: data, loss, one step, and everything that a run leaves behind."""
