"""Posteriors of a fitted model: click logits in closed form or by draws, and the next prior."""
