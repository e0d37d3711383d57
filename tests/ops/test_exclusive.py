"""One lock around Pyro: others wait, the same thread does not; and nothing is left in Pyro's store."""

import threading
import time

import pyro
import torch

from blob_pyro.ops.exclusive import exclusive, own_parameter_store


def test_others_wait_and_the_same_thread_does_not():
    order = []

    def other():
        with exclusive():
            order.append("other")

    thread = threading.Thread(target=other)
    with exclusive(), exclusive():
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_the_store_is_empty_inside_and_as_before_outside():
    pyro.clear_param_store()
    pyro.param("mine", torch.tensor(1.0))
    with own_parameter_store():
        assert list(pyro.get_param_store().keys()) == []
        pyro.param("theirs", torch.tensor(2.0))
    assert list(pyro.get_param_store().keys()) == ["mine"]
    pyro.clear_param_store()
