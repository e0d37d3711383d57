"""The training loop: settings, optimisers, captured steps, checkpoints."""
