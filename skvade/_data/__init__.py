"""From arrays to batches of tensors."""
