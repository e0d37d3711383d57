"""Seconds for off-policy estimates of ten million events on one core, with their intervals.

python benchmarks/ope.py [--events 10000000] [--actions 20]
"""

import argparse
import time
import warnings

import torch

from blob_pyro import ope


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--actions", type=int, default=20)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    n, count = arguments.events, arguments.actions
    generator = torch.Generator().manual_seed(0)
    logging, target = (torch.rand(n, count, generator=generator).add_(0.1) for _ in range(2))
    for probs in (logging, target):
        probs.div_(probs.sum(-1, keepdim=True))
    action = torch.multinomial(logging, 1, generator=generator).squeeze(-1)
    reward = (torch.rand(n, generator=generator) < 0.02).float()
    user = torch.randint(n // 50, (n,), generator=generator)
    of_target, of_logging = (p.gather(-1, action[:, None]).squeeze(-1).double() for p in (target, logging))
    predicted = torch.full((n, count), 0.02)
    del logging
    plain = reward, of_target, of_logging
    robust = {"action": action, "predicted_reward": predicted, "groups": user}
    cases = {
        "ips": lambda: ope.ips(*plain, groups=user),
        "snips": lambda: ope.snips(*plain, groups=user),
        "beta_ips": lambda: ope.beta_ips(*plain, groups=user),
        "delta_snips": lambda: ope.delta_snips(reward, of_target, of_logging, of_logging, groups=user),
        "doubly_robust": lambda: ope.doubly_robust(reward, target, of_logging, **robust),
    }
    print(f"{n:,} events, {count} actions, {int(user.max()) + 1:,} users; seconds")
    print("               estimate   normal  bootstrap  anytime")
    for name, make in cases.items():
        start = time.perf_counter()
        estimate = make()
        taken = [time.perf_counter() - start]
        for method in ("normal", "bootstrap", "anytime"):
            if method == "anytime" and (estimate.bounded is None or name == "doubly_robust"):
                taken.append(float("nan"))
                continue
            start = time.perf_counter()
            estimate.interval(method=method)
            taken.append(time.perf_counter() - start)
        print(f"{name:14} {taken[0]:9.2f} {taken[1]:8.2f} {taken[2]:10.2f} {taken[3]:8.2f}", flush=True)


if __name__ == "__main__":
    main()
