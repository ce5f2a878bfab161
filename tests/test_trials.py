"""A process that tries candidates ends with the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

CHILD = """
import os, time
from ppl_gen import trials
owner = os.getpid()
if not os.fork():
    trials.end_with(owner)
    print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_no_process_works_on_once_the_command_is_killed():
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "begun\n"
        start = time.monotonic()
        owner.kill()
        assert not owner.stdout.read()  # which ends when the child has ended, too: by itself after 60 s
        assert time.monotonic() - start < 30
