"""A small chaos run, and what a seed decides."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest

from chaos.faults import KINDS, schedule
from stack.places import ROOT


def test_seed_decides_all_faults():
    first, again, other = (list(itertools.islice(schedule(seed), 400)) for seed in (5, 5, 6))
    assert first == again != other
    assert {fault.kind for episode in first for fault in episode.faults} == set(KINDS)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_thousand_sends():
    words = [sys.executable, "-m", "chaos", "--sends", "2000", "--minutes", "3"]
    if seed := os.environ.get("CHAOS_SEED"):
        words += ["--seed", seed]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    found = json.loads(said.stdout.splitlines()[-1])
    assert found["complaints"] == 0
    assert found["acknowledged"] > 0
    assert found["device_messages"] > 0
