"""From features to an adapter: preflight, batches, the loop, checkpoints."""
