"""How workers come to talk to each other: the backend is chosen by what every one of them has."""

import pytest
import torch

from blob_pyro.infer.training import process_group


@pytest.mark.parametrize(
    ("num_devices", "num_here", "other", "backend"),
    [
        (0, "2", b"False", "gloo"),
        (1, "2", b"False", "gloo"),
        (1, None, b"True", "gloo"),  # both may be on this machine
        (2, None, b"True", "nccl"),
        (1, "1", b"True", "nccl"),
        (2, "2", b"False", "gloo"),  # all have to talk in one way
    ],
)
def test_nccl_needs_a_device_for_each_worker(monkeypatch, num_devices, num_here, other, backend):
    store, chosen, devices = torch.distributed.HashStore(), [], []
    store.set("attempt 0/a device of its own 1", other)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    for name, value in (("LOCAL_WORLD_SIZE", num_here), ("TORCHELASTIC_RESTART_COUNT", None), ("LOCAL_RANK", "3")):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(process_group, "rendezvous", lambda _: iter([(store, 0, 2)]))
    monkeypatch.setattr(process_group.atexit, "register", lambda _: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, **_: chosen.append(name))
    process_group.join_workers()
    assert chosen == [backend]
    assert devices == ([3 % num_devices] if num_devices else [])
