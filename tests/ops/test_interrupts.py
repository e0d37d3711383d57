"""Ctrl-C waits until the block has ended, in the main thread alone."""

import signal
import threading

import pytest

from blob_pyro.ops.interrupts import to_the_end, uninterrupted


@pytest.fixture(autouse=True)
def python_s_own_handler():
    """That of a process in the foreground: shells let those in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_comes_when_the_block_has_ended():
    done = []

    def block():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_ctrl_c_nothing_happens():
    with uninterrupted():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_inside_puts_the_handler_back():
    with pytest.raises(ZeroDivisionError), uninterrupted():
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *event: seen.append(event))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            assert len(seen) == 1
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_not_concerned():
    handlers = []

    def block():
        with uninterrupted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_a_block_is_brought_to_its_end():
    done = []

    def block():
        with to_the_end("the last sum"):
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.warns(UserWarning, match="the last sum: interrupted at its end, which was near: it is whole"):
        block()
    assert done == ["the rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_it():
    done = []

    def block():
        with to_the_end("the last sum"):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert not done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
