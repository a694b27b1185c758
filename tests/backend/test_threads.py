"""Calls on all cores: the results come in order, and each call sees the caller's backend."""

import threading

import pytest

from tinyunet.backend import active_backend, use_backend
from tinyunet.backend.threads import on_all_cores


def test_the_results_come_in_the_order_of_the_items() -> None:
    assert on_all_cores(lambda item: item**2, iter(range(20))) == [item**2 for item in range(20)]
    assert on_all_cores(abs, []) == []


def test_calls_run_in_other_threads_with_the_backend_of_this_one() -> None:
    before = active_backend()
    try:
        use_backend("numpy")
        found = on_all_cores(lambda _: (active_backend(), threading.get_ident()), range(4))
    finally:
        use_backend(before)
    assert {backend for backend, _ in found} == {"numpy"}
    assert threading.get_ident() not in {thread for _, thread in found}


def test_the_error_of_the_first_item_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda item: [1, 2][1 // item], [1, 0, "not a number"])
