"""An interrupt that comes when the answer is out: what is done is done, so the exit status says so."""

import os
import signal
import subprocess
import sys

import pytest

LATE = """
import atexit, os, signal, sys
import sparseact.cli
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["sparseact", *{arguments}]
sparseact.cli.run()
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize(("arguments", "status"), [(["models"], 0), (["eval", "--context", "none"], 2)])
def test_an_interrupt_while_python_ends_changes_nothing(arguments, status):
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(arguments=arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, (done.returncode, signal.SIGINT, done.stderr)
    assert "Traceback" not in done.stderr
    assert "KeyboardInterrupt" not in done.stderr
