"""What a fitted model knows: click logits in closed form or by draws, and the next prior."""
