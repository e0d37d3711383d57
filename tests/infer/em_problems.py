"""Sessions for EM."""

import torch

P, K = 30, 3


SCALES = torch.tensor([1.2, 0.5, 0.1], dtype=torch.float64)


SESSIONS = [[0, 3, 3, 7], [], [29] * 40, [5], list(range(30)) * 9]
