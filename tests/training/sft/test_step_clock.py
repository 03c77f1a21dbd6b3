from __future__ import annotations

import threading
import time

import jax
import jax.monitoring
import pytest

from tuneloop.training.sft.step_clock import CACHE_HIT_EVENT, COMPILE_EVENT, StepClock


def test_a_lap_contains_what_was_compiled_in_it() -> None:
    clock = StepClock()
    compiled = jax.jit(lambda x: x * 3 + len(str(x)))
    with clock.listening():
        compiled(jax.numpy.ones(17)).block_until_ready()
        first = clock.lap()
        compiled(jax.numpy.ones(17)).block_until_ready()
        second = clock.lap()
    assert 0 < first.compiling < first.step
    assert second.compiling == 0 < second.step


def test_pauses_do_not_count() -> None:
    clock = StepClock()
    clock.start()
    with clock.listening(), clock.pause():
        jax.monitoring.record_event_duration_secs(COMPILE_EVENT, 5.0)
        time.sleep(0.2)
    lap = clock.lap()
    assert lap.step < 0.2
    assert lap.compiling == 0


def test_only_the_loops_own_thread_counts_and_only_while_listening() -> None:
    clock = StepClock()

    def compile_something() -> None:
        jax.monitoring.record_event_duration_secs(COMPILE_EVENT, 5.0)
        jax.monitoring.record_event(CACHE_HIT_EVENT)

    with clock.listening():
        other = threading.Thread(target=compile_something)
        other.start()
        other.join()
        assert (clock.lap().compiling, clock.cache_hits) == (0, 0)
        compile_something()
        assert (clock.lap().compiling, clock.cache_hits) == (5.0, 1)
    compile_something()
    assert (clock.lap().compiling, clock.cache_hits) == (0, 1)


def test_the_wait_for_a_batch_belongs_to_its_step() -> None:
    clock = StepClock()
    for step, seconds in ((1, 0.05), (2, 0.0)):
        with clock.waiting_for_batch(step):
            time.sleep(seconds)
    assert clock.data_wait(2) < 0.05 <= clock.data_wait(1)
    with pytest.raises(KeyError):
        clock.data_wait(1)
