"""Models to put terms into."""

P, K, C, N, F = 6, 2, 5, 40, 3
