"""Threads: they end, they survive an interrupt, a busy machine, and another process."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.testing import tiny_model

IDS = [5, 9, 33]


def helpers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sparseact-")]


@pytest.fixture
def engine():
    with Engine.from_model(tiny_model("llama"), dtype="f32", threads=3) as made:
        yield made


def test_one_thread_starts_none_and_three_start_two():
    with Engine.from_model(tiny_model("llama"), threads=1):
        assert helpers() == []
    with Engine.from_model(tiny_model("llama"), threads=3):
        assert len(helpers()) == 2
    assert helpers() == []


def test_collecting_an_engine_ends_its_threads():
    engine = Engine.from_model(tiny_model("llama"), dtype="f32", threads=3)
    engine.step(1)
    assert len(helpers()) == 2
    del engine
    gc.collect()
    assert helpers() == []


def test_a_closed_engine_says_so_and_closes_twice(engine):
    engine.step(1)
    engine.close()
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.step(1)


def test_helpers_sleep_between_generations_and_wake(engine):
    first = engine.step(IDS[0])
    deadline = time.monotonic() + 60
    while not all(engine._buffers.control[40 + 8 * thread] for thread in (1, 2)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [int(engine._buffers.control[40 + 8 * thread]) for thread in (1, 2)] == [1, 1]  # asleep
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1  # two spinning helpers would have taken more
    engine.step(IDS[1])
    engine.reset()
    np.testing.assert_array_equal(engine.step(IDS[0]), first)


def test_an_interrupt_before_the_job_leaves_the_engine_usable(engine):
    """KeyboardInterrupt where the leader has asked for attention but the job has not begun."""
    expected = engine.step(IDS[0])
    engine.reset()
    lead, team = engine._lead, engine._team
    calls = []

    def interrupted():
        calls.append(1)
        engine._buffers.control[16] = 1  # armed
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        team.run(interrupted)
    assert engine._buffers.control[16] == 0
    assert calls == [1]
    engine._lead = lead
    np.testing.assert_array_equal(engine.step(IDS[0]), expected)


SCRIPT = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its background jobs to ignore it
from sparseact.engine.engine import Engine
from sparseact.testing import tiny_model
engine = Engine.from_model(tiny_model("llama"), dtype="f32", threads=2)
engine.prefill([1, 2, 3])  # whatever is compiled, is compiled before "ready"
engine.greedy(3)
print("ready", flush=True)
try:
    while True:
        engine.reset()
        engine.prefill([1, 2, 3])
        engine.greedy(100)
except KeyboardInterrupt:
    engine.reset()
    engine.prefill([1, 2, 3])
    print("still", engine.greedy(3), flush=True)
    engine.close()
    print("left", [thread.name for thread in threading.enumerate()], flush=True)
"""


def start(script=SCRIPT):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_a_generation_cleanly():
    process = start()
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert out.splitlines()[0].startswith("still [")
    assert out.splitlines()[1] == "left ['MainThread']"


@pytest.mark.timeout(900)
def test_exit_without_close_ends():
    script = SCRIPT.split("try:", maxsplit=1)[0]
    process = start(script)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert out == "ready\n"


@pytest.mark.timeout(900)
def test_two_engines_in_one_process_and_another_process_agree(engine):
    body = "engine.reset(); engine.prefill([1, 2, 3]); print(engine.greedy(60))"
    script = SCRIPT.split("print", maxsplit=1)[0] + body
    processes = [start(script) for _ in range(2)]
    with Engine.from_model(tiny_model("llama"), dtype="f32", threads=2) as other:
        for one in (engine, other):
            one.prefill([1, 2, 3])
        found = [engine.greedy(1) + other.greedy(1) for _ in range(60)]
    expected = [pair[0] for pair in found]
    assert expected == [pair[1] for pair in found]
    for process in processes:
        out, _ = process.communicate(timeout=600)
        assert out.strip() == str(expected)


@pytest.mark.timeout(900)
def test_a_busy_machine_slows_decoding_but_never_stops_it(engine):
    """More threads than processors, and each processor wanted by two other processes: it finishes all the same."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        engine.prefill(IDS)
        assert len(engine.greedy(100)) == 100
    finally:
        for process in busy:
            process.kill()
            process.wait()
