"""An iterator whose next element can be made beforehand."""

import gc
import weakref

import pytest

from tinyunet.training.ahead import Ahead


def numbers(made, stop=3):
    for number in range(stop):
        made.append(number)
        yield number
    raise OSError("no more")


def test_elements_are_made_when_asked_for_or_one_beforehand():
    made = []
    ahead = Ahead(numbers(made))
    assert next(ahead) == 0
    assert (made, ahead.begun) == ([0], False)
    ahead.begin()
    ahead.begin()
    assert (made, ahead.begun) == ([0, 1], True)
    assert [next(ahead), next(ahead)] == [1, 2]
    assert not ahead.begun


def test_an_error_waits_for_its_turn():
    ahead = Ahead(numbers([], stop=1))
    assert next(ahead) == 0
    ahead.begin()
    with pytest.raises(OSError, match="no more"):
        next(ahead)
    ahead = Ahead(())
    ahead.begin()
    assert (list(ahead), ahead.begun) == ([], False)


def test_an_error_holds_nothing_afterwards():
    """A tile for which memory was short must not keep that memory until cycles are collected."""

    class Array:
        pass

    alive = []

    def fail():
        array = Array()
        alive.append(weakref.ref(array))
        raise MemoryError
        yield

    gc.disable()
    try:
        ahead = Ahead(fail())
        ahead.begin()
        with pytest.raises(MemoryError):
            next(ahead)
        assert alive[0]() is None
    finally:
        gc.enable()
