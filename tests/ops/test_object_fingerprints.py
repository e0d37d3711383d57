"""Fingerprints: alike for what is alike, in every process; different for what differs; refused for what is empty."""

import datetime as dt
import functools
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn

from blob_pyro.data import Histories, Vocabulary
from blob_pyro.ops.object_fingerprints import fingerprint


class Color(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Settings:
    rate: float
    names: tuple = ()


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def by_rank(rank):
    """A closure that says it is the library's."""
    names = {"__name__": "torch.own"}
    exec("def make(r):\n def f(x): return x[r]\n return f", names)
    return names["make"](rank)


class Cached:
    def __init__(self, value):
        self._value = value

    @functools.cached_property
    def double(self):
        return 2 * self._value


class Text(str):
    pass


def scaled(factor):
    return lambda x: factor * x


def module(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU())


def cycle(value):
    own = SimpleNamespace(value=value)
    own.self = own
    return own


def code(text):
    names = {"__name__": "own"}
    exec(text, names)
    return names["f"]


MAKERS = {  # what is alike, made twice, and what differs from it
    "a number": (lambda: 1, [lambda: 1.0, lambda: True, lambda: "1", lambda: 2, lambda: None]),
    "a float": (lambda: 0.1, [lambda: 0.1 + 2**-53, lambda: -0.1]),
    "text": (lambda: "ab", [lambda: b"ab", lambda: "a", lambda: Text("ab"), lambda: ["a", "b"]]),
    "a list": (lambda: [1, "2", [3]], [lambda: (1, "2", [3]), lambda: [1, "2", [3, 3]], lambda: [[3], 1, "2"]]),
    "a set": (lambda: {"a", "b", "c"}, [lambda: {"a", "b"}, lambda: frozenset({"a", "b", "c"} - {"c"})]),
    "a mapping": (lambda: {"a": 1, 2: [3]}, [lambda: {"a": 1, "2": [3]}, lambda: {"a": 1}]),
    "an enumeration": (lambda: Color.RED, [lambda: Color.BLUE, lambda: 1]),
    "a date": (lambda: dt.date(2026, 1, 1), [lambda: dt.date(2026, 1, 2), lambda: dt.datetime(2026, 1, 1)]),
    "a decimal": (lambda: Decimal("1.0"), [lambda: Decimal("1"), lambda: 1.0]),
    "a UUID": (lambda: uuid.UUID(int=5), [lambda: uuid.UUID(int=6)]),
    "a tensor": (
        lambda: torch.arange(6.0),
        [lambda: torch.arange(6), lambda: torch.arange(6.0).view(2, 3), lambda: torch.arange(6.0).double(),
         lambda: torch.arange(6.0) + 1e-7],
    ),
    "a sparse tensor": (lambda: torch.eye(3).to_sparse(), [lambda: torch.eye(4).to_sparse(), lambda: torch.eye(3)]),
    "an array": (
        lambda: np.arange(6.0), [lambda: np.arange(6), lambda: torch.arange(6.0), lambda: np.arange(6.0)[::-1]],
    ),
    "an array of objects": (lambda: np.array(["a", None, 1], object), [lambda: np.array(["a", None, "1"], object)]),
    "a NumPy number": (lambda: np.float64(0.5), [lambda: np.float32(0.5), lambda: 0.5]),
    "a frame": (
        lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[3, 4]),
        [lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}), lambda: pd.DataFrame({"a": [1, 2], "c": ["x", None]}),
         lambda: pd.DataFrame({"a": [1, 3], "b": ["x", None]}, index=[3, 4])],
    ),
    "a sparse matrix": (
        lambda: scipy.sparse.csr_array(np.eye(3)), [lambda: scipy.sparse.csr_array(np.eye(4)), lambda: np.eye(3)],
    ),
    "histories": (
        lambda: Histories.from_sequences([[1, 2], []], 3), [lambda: Histories.from_sequences([[2, 1], []], 3)],
    ),
    "a vocabulary": (lambda: Vocabulary(["a", "b"]), [lambda: Vocabulary(["b", "a"]), lambda: Vocabulary.numbered(2)]),
    "a dataclass": (lambda: Settings(0.5), [lambda: Settings(0.6), lambda: Settings(0.5, ("a",))]),
    "an object": (lambda: Cached(3), [lambda: Cached(4), lambda: SimpleNamespace(_value=3)]),
    "slots": (lambda: Slotted(3), [lambda: Slotted(4)]),
    "a module": (lambda: module(0), [lambda: module(1), lambda: module(0)[:1], lambda: module(0).eval()]),
    "a closure": (lambda: scaled(2), [lambda: scaled(3), lambda: scaled]),
    "a function": (
        lambda: code("def f(x): return x + 1"),
        [lambda: code("def f(x): return x + 2"), lambda: code("def f(x, y=1): return x + 1"),
         lambda: code("def f(x): return x - 1")],
    ),
    "a property with attributes": (
        lambda: torch.distributions.constraints.dependent_property(is_discrete=True, event_dim=0),
        [lambda: torch.distributions.constraints.dependent_property(is_discrete=False, event_dim=0)],
    ),
    "a library's closure": (lambda: by_rank(1), [lambda: by_rank(2)]),
    "a default": (lambda: code("def f(x=1): return x"), [lambda: code("def f(x=2): return x")]),
    "what a function refers to": (
        lambda: code("t = 3\ndef f(x): return x * t"), [lambda: code("t = 4\ndef f(x): return x * t")],
    ),
    "what is within a function": (
        lambda: code("t = 3\ndef f(x): return [t * y for y in x]"),
        [lambda: code("t = 4\ndef f(x): return [t * y for y in x]")],
    ),
    "a partial": (lambda: functools.partial(pow, 2), [lambda: functools.partial(pow, 3), lambda: pow]),
    "a bound method": (lambda: Cached(3).__init__, [lambda: Cached(4).__init__]),
    "a cached function": (
        lambda: functools.lru_cache(code("def f(x): return 1")),
        [lambda: functools.lru_cache(code("def f(x): return 2"))],
    ),
    "a class": (
        lambda: code("class f:\n def g(self): return 1"), [lambda: code("class f:\n def g(self): return 2")],
    ),
    "an object of a class": (
        lambda: code("class f:\n def g(self): return 1")(), [lambda: code("class f:\n def g(self): return 2")()],
    ),
    "a property": (
        lambda: code("class f:\n @property\n def g(self): return 1")(),
        [lambda: code("class f:\n @property\n def g(self): return 2")()],
    ),
    "a cycle": (lambda: cycle(1), [lambda: cycle(2)]),
    "a generator of random numbers": (
        lambda: torch.Generator().manual_seed(1), [lambda: torch.Generator().manual_seed(2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "others"), MAKERS.values(), ids=MAKERS.keys())
def test_alike_and_different(make, others):
    first = fingerprint(make())
    assert len(first) == 64
    assert fingerprint(make()) == first
    different = [fingerprint(other()) for other in others]
    assert first not in different


def test_all_that_differs_is_told_apart():
    every = [make for make, _ in MAKERS.values()]
    assert len({fingerprint(make()) for make in every}) == len(every)


def test_what_was_cached_does_not_count():
    asked = Cached(3)
    assert asked.double == 6
    assert fingerprint(asked) == fingerprint(Cached(3))


def test_an_object_may_speak_for_itself():
    class Remote:
        def __init__(self, version):
            self.connection, self.version = threading.Lock(), version

        def fingerprint(self):
            return self.version

    assert fingerprint(Remote("1")) == fingerprint(Remote("1")) != fingerprint(Remote("2"))
    with pytest.raises(TypeError, match=r"value: fingerprint\(\) must return text, got a int"):
        fingerprint(Remote(1))


def test_what_has_no_contents_is_refused():
    with open(__file__) as file:
        for held in (threading.Lock(), (n for n in range(3)), file, threading.RLock()):
            with pytest.raises(
                TypeError, match=r"model\['deep'\]\[1\]: is a .*, and no fingerprint can be made of one"
            ):
                fingerprint({"deep": [1, held]}, "model")


def test_every_process_finds_the_same():
    text = (
        "import torch\nfrom blob_pyro.ops.object_fingerprints import fingerprint\nt = {'b', 'a', 'c'}\n"
        "class P:\n def __init__(self): self.x, self.s = torch.ones(3), {'x', 'y', 'z'}\n"
        " def f(self, y): return y in {'a', 'b', 'q'} or y in t\n"
        "print(fingerprint([P(), lambda x: x in {'p', 'q', 'r'}]))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, env=environment(seed))
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 64


def environment(seed):
    import os

    return {**os.environ, "PYTHONHASHSEED": seed}


def test_what_lies_in_one_place_is_told_apart_by_how_it_is_read():
    """The numbers of a tensor are hashed once, and no more than it says is taken for the same."""
    whole = torch.arange(4.0).view(2, 2)
    copies = [whole.clone(), whole.mT.clone(), whole[:1].clone(), whole.view(torch.int32).clone(), whole.clone()]
    views = [whole, whole.mT, whole[:1], whole.view(torch.int32), whole.detach()]
    assert fingerprint(views) == fingerprint(copies)
    assert fingerprint([whole, whole.detach()]) != fingerprint([whole, whole.mT])
