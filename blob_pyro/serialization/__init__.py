"""Models on disk: the folder, and what is in its JSON."""
