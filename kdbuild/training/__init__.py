"""Training: rows to token batches, the loop on DeepSpeed, checkpoints, and loading and saving of models."""
