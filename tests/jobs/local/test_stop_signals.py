from __future__ import annotations

import os
import signal
import threading

from florence_jobs.local.stop_signals import StopSignals


def test_signals_are_noted_and_handlers_put_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.first is signal.SIGHUP
        assert not stop.at_once  # a closed terminal may send several
    assert {number: signal.getsignal(number) for number in before} == before


def test_an_interrupt_after_another_request_ends_it_at_once() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert (stop.requested, stop.at_once) == (True, False)
            signal.raise_signal(signal.SIGINT)
            assert stop.at_once
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_main_thread_nothing_is_noted() -> None:
    found: list[bool] = []

    def work() -> None:
        with StopSignals() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
