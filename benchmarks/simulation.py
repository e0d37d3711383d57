"""Users per second of RecoGym 0.1.3.0 and of the vectorised one, side by side on one core.

    OMP_NUM_THREADS=1 python benchmarks/simulation.py [--users N] [--reference-users N] [--num-items P] [--repeats N]
        [--thompson-users N]

Both are timed in CPU seconds, alternately, and write a whole log each: views, actions, clicks, propensities. The
ratio is that of the medians. Then logs by Thompson sampling from a fitted BLOB, with the propensities of what was
played, with those worked out from all actions', and without. Then A/B tests by themselves, of Thompson sampling too,
whose every decision is a draw of its own. Memory is the process's peak, all of the above included.
"""

import argparse
import contextlib
import resource
import statistics
import time

import torch

from blob_pyro import BLO, BLOB
from blob_pyro.policies import Greedy, SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.policies.repeated import log_prob_in_a_rectangle
from blob_pyro.policies.thompson_actions import ConditionalThompsonActions, MixtureThompsonActions, ThompsonActions
from blob_pyro.simulation import RecoGym, RecoGymReference, ab_test, session_popularity_agent


def rate(simulate, users):
    """Users per CPU second."""
    start = time.process_time()
    simulate(users)
    return users / (time.process_time() - start)


def vectorised_log(environment, policy, **options):
    return lambda users: environment.simulate(policy, users, **options)


@contextlib.contextmanager
def all_actions():
    """As if no distribution knew how to look up the played actions alone."""
    kinds = (ConditionalThompsonActions, MixtureThompsonActions, ThompsonActions)
    own = {kind: kind.log_prob_each for kind in kinds}
    for kind in own:
        kind.log_prob_each = lambda self, counts, actions: log_prob_in_a_rectangle(self, counts, actions)
    yield
    for kind, method in own.items():
        kind.log_prob_each = method


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=16_384)
    parser.add_argument("--reference-users", type=int, default=400)
    parser.add_argument("--num-items", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--thompson-users", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    reference, vectorised = RecoGymReference(arguments.num_items), RecoGym(arguments.num_items)
    contenders = {
        "random": (None, Uniform(arguments.num_items)),
        "session popularity": (session_popularity_agent(arguments.num_items), SessionPopularity(arguments.num_items)),
    }
    reference.simulate(num_users=10)  # Numba compiles
    vectorised.simulate(num_users=arguments.users)
    print(f"P = {arguments.num_items}, one core, median of {arguments.repeats} runs in turn; users per CPU second")
    print(f"{'policy':20} {'RecoGym':>10} {'vectorised':>12} {'ratio':>8}")
    for name, (agent, policy) in contenders.items():
        theirs, ours = [], []
        for _ in range(arguments.repeats):
            theirs.append(rate(lambda users, agent=agent: reference.simulate(agent, users), arguments.reference_users))
            ours.append(rate(lambda users, policy=policy: vectorised.simulate(policy, users), arguments.users))
        medians = statistics.median(theirs), statistics.median(ours)
        print(f"{name:20} {medians[0]:10,.0f} {medians[1]:12,.0f} {medians[1] / medians[0]:8.0f}")

    log = vectorised.simulate(contenders["session popularity"][1], 1000, 20_000, propensities=False)
    blo = BLO(arguments.num_items)
    blo.fit(log, progress=False, device="cpu")
    blob = BLOB(blo)
    blob.fit(log, progress=False, device="cpu")
    contenders |= {"BLOB, greedy": (None, Greedy(blob)), "BLOB, Thompson": (None, ThompsonSampling(blob))}
    mixture = ThompsonSampling(blob, shared_draws=32)
    print("a log by Thompson sampling, with propensities; by those of all actions, as before; without")
    conditional = ThompsonSampling(blob, propensity="conditional")
    whole = contenders["BLOB, Thompson"][1]
    for name, policy in (("given the draw", conditional), ("mixture of 32 draws", mixture), ("whole posterior", whole)):
        users = arguments.thompson_users
        played = rate(vectorised_log(vectorised, policy), users)
        with all_actions():
            before = rate(vectorised_log(vectorised, policy), max(1, users // 20))
        without = rate(vectorised_log(vectorised, policy, propensities=False), users)
        print(f"{name:20} {played:10,.0f} {before:12,.0f} {without:12,.0f}")
    for name, (_, policy) in contenders.items():
        tests = [
            rate(lambda users, policy=policy: ab_test(vectorised, {"policy": policy}, users), arguments.users)
            for _ in range(arguments.repeats)
        ]
        print(f"A/B test, {name}, no log written: {statistics.median(tests):,.0f}")
    log = vectorised.simulate(num_users=arguments.users, seed=1)
    print(f"peak memory {peak_mib():,.0f} MiB; one log has {log.num_views + log.num_impressions:,} events")


if __name__ == "__main__":
    main()
