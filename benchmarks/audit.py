"""False alarms of the propensity audit on healthy RecoGym logs, and which planted faults it finds.

    python benchmarks/audit.py [--environments 5] [--output benchmarks/results/audit]

In each environment five policies log eight times: uniform, session popularity, epsilon-greedy, softmax, and a BLOB's
Thompson mixture, with 5 to 30 items and 40 to 300 users. Into one more log of each policy, of 300 users, faults are
planted, one at a time. A call goes on from the environments that are done. The audit was written with environments of
seeds 100 to 199; in the first ones after, 200 to 204, it flagged 7 healthy logs whose weights have heavy tails, which
led to the p-value of the largest weight. Those reported have the seeds 205, 206, ...
"""

import argparse
import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.infer import ConvergenceWarning
from blob_pyro.ope import audit
from blob_pyro.policies import EpsilonGreedy, SessionPopularity, Softmax, ThompsonSampling, Uniform
from blob_pyro.simulation import RecoGym

RESULTS = Path(__file__).parent / "results" / "audit"
ITEMS, USERS = (5, 10, 20, 30), (40, 100, 300)


def policies(environment, draws=16):
    """Five of them; the last two know a BLOB that 100 users taught."""
    size = environment.num_items
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = environment.simulate(SessionPopularity(size, epsilon=0.3), 100, 1000, seed=1)
        blo = BLO(size, embedding_dim=min(size, 10))
        blo.fit(start, seed=0, progress=False)
        blob = BLOB(blo)
        blob.fit(start, seed=0, progress=False)
    return {
        "uniform": Uniform(size),
        "session popularity": SessionPopularity(size, epsilon=0.3),
        "epsilon-greedy": EpsilonGreedy(blob, 0.2),
        "softmax": Softmax(blob, 0.25),
        "Thompson mixture": ThompsonSampling(blob, shared_draws=draws),
    }


def with_propensity(log, propensity):
    return dataclasses.replace(log, propensity=torch.as_tensor(propensity, dtype=torch.float64))


def counted(log, draws, seed=0):
    """As a Monte Carlo estimate has them, each context counted once: no count is zero, as the action was played."""
    cell = (log.context * log.num_items + log.action).numpy()
    _, first, which = np.unique(cell, return_index=True, return_inverse=True)
    counts = np.random.default_rng(seed).binomial(draws, log.propensity.numpy().clip(max=1)[first])
    return with_propensity(log, np.maximum(counts, 1)[which] / draws)


def of_policy(log, policy):
    with torch.no_grad():
        probs = policy.action_distribution(log.contexts).probs.double()[log.context]
    return with_propensity(log, probs.gather(-1, log.action[:, None])[:, 0].clamp(min=1e-9))


def one_tiny_row(log):
    propensity = log.propensity.clone()
    propensity[len(propensity) // 2] = 1e-9
    return with_propensity(log, propensity)


def joined(first, second):
    """One log, then another of the same users who do as before, but are shown other things."""
    later = int(first.time.max()) + 1
    return EventLog.from_arrays(
        first.num_items,
        torch.cat([first.view_user, second.view_user + first.num_users]),
        torch.cat([first.view_time, second.view_time + later]),
        torch.cat([first.view_item, second.view_item]),
        torch.cat([first.user, second.user + first.num_users]),
        torch.cat([first.time, second.time + later]),
        torch.cat([first.action, second.action]),
        torch.cat([first.reward, second.reward]),
        torch.cat([first.propensity, second.propensity]),
    )


def slates(policy, contexts, slots=2, each=20, swapped=False):
    """Decisions in two slots after histories that come several times; what is logged may be the other slot's."""
    histories = contexts[torch.arange(min(len(contexts), 100)).repeat(each)]
    users = np.arange(len(histories))
    frame = policy.decide(histories, user=users, time=10**6 + users, slots=slots, seed=0)
    if swapped:
        with torch.no_grad():
            law = policy.slate_distribution(histories, slots).probs  # N x P x L
        context, slot = np.repeat(users, slots), np.tile(np.arange(slots), len(users))
        frame["propensity"] = law[context, frame["action"].to_numpy().copy(), slots - 1 - slot].clamp(1e-9, 1).numpy()
    views = [(user, at, item) for user, past in zip(users, histories.to_sequences()) for at, item in enumerate(past)]
    return EventLog.from_tables(
        views=pd.DataFrame(views, columns=["user", "time", "item"]), impressions=frame.assign(reward=0),
        num_items=policy.num_items,
    )  # fmt: skip


def faults(log, other):
    """Names and logs; what changes nothing of this log is none."""
    p, size = log.propensity, log.num_items
    planted = {
        "counted from 1,000 draws": counted(log, 1000),
        "counted from 200,000 draws": counted(log, 200_000),
        "floor": with_propensity(log, p.clamp(min=float(p.quantile(0.3)) * 1.5)),
        "constant 1/A": with_propensity(log, torch.full_like(p, 1 / size)),
        "shifted rows": with_propensity(log, p.roll(37)),
        "of another policy": of_policy(log, other),
        "too large": with_propensity(log, (1.3 * p).clamp(max=1)),
        "too small": with_propensity(log, p / 1.3),
        "one tiny row": one_tiny_row(log),
    }
    return {name: bad for name, bad in planted.items() if not torch.allclose(bad.propensity, p, rtol=0.02)}


def run(seed, logs):
    """Rows: one for each healthy log, and one for each planted fault."""
    size = ITEMS[seed % len(ITEMS)]
    environment = RecoGym(num_items=size, num_flips=size // 2, seed=seed)
    players = policies(environment)
    rows = []
    for number, (name, policy) in enumerate(players.items()):
        for log_number in range(logs):
            users = USERS[(log_number + number) % len(USERS)]
            log = environment.simulate(policy, users, seed=10 + log_number)
            about = {"environment": seed, "items": size, "policy": name, "log": log_number, "rows": log.num_impressions}
            report = audit(log)
            rows.append({**about, "fault": "", "flagged": "; ".join(f.test for f in report.flagged)})
        log = environment.simulate(policy, max(USERS), seed=9)
        about |= {"log": -1, "rows": log.num_impressions}
        other = players["uniform"] if name != "uniform" else players["session popularity"]
        planted = faults(log, other)
        if name != "uniform":
            planted["swapped slots"] = slates(policy, log.contexts, swapped=True)
            planted["(slots as they are)"] = slates(policy, log.contexts)
            second = environment.simulate(other, max(USERS), seed=30)
            planted["policy changed"] = joined(log, second)
        for fault, bad in planted.items():
            report = audit(bad)
            rows.append({**about, "fault": fault, "flagged": "; ".join(f.test for f in report.flagged)})
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=205)
    parser.add_argument("--logs", type=int, default=8, help="of each policy and environment")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "audits.csv"
    done = pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame({"environment": []})
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.environments)
    for seed in tqdm([seed for seed in seeds if seed not in set(done["environment"])]):
        done = pd.concat([done, run(seed, arguments.logs)], ignore_index=True)
        done.to_csv(path, index=False)
    done = done[done["environment"].isin(seeds)]
    report(done, arguments.output)


def report(rows, folder):
    fine = rows["fault"].str.startswith("(") | (rows["fault"] == "")
    healthy, planted = rows[rows["fault"] == ""], rows[~fine]
    alarms = healthy[healthy["flagged"] != ""]
    lines = [f"healthy logs flagged: {len(alarms)} of {len(healthy)}"]
    where = "{0.policy}, environment {0.environment}, {0.rows:,.0f} rows".format
    lines += [f"  {where(row)}: {row.flagged}" for row in alarms.itertuples()]
    by_policy = healthy.assign(flagged=healthy["flagged"] != "").groupby("policy", sort=False)["flagged"]
    lines += ["", by_policy.agg(flagged="sum", logs="size").to_string(), "", "planted faults"]
    found = planted.assign(found=planted["flagged"] != "")
    by_fault = found.groupby("fault", sort=False)["found"].agg(found="sum", planted="size")
    lines += [f"found: {int(found['found'].sum())} of {len(found)}", by_fault.to_string()]
    missed = found[~found["found"]]
    lines += [f"  missed: {row.fault}, {where(row)}" for row in missed.itertuples()]
    slots = rows[rows["fault"].str.startswith("(")]
    lines += ["", f"healthy logs of two slots flagged: {int((slots['flagged'] != '').sum())} of {len(slots)}"]
    text = "\n".join(lines)
    print(text)
    (folder / "audit.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
