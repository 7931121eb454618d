"""schemathesis against the real service, as a stranger runs it: all phases, all checks, good and bad data.

What a well-formed request may be refused for beyond the document is in schemathesis.toml, with the reasons; so is the
one check that two operations are spared.
"""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.conftest import Fuzzed

# Events that mean a rule of ours let something through to SQL, the driver or the framework that it did not expect.
SURPRISES = {"unexpected", "answer_unexpected", "answer_unusable", "refusal_not_in_catalogue"}


def run(fuzzed: Fuzzed, person: Any, cases: int, seed: int) -> None:
    """One run of the command line; its report is the failure."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{fuzzed.url}/schema/openapi.json",
        "--max-examples", str(cases), "--seed", str(seed), "--continue-on-failure",
        "--header", f"Authorization: Bearer {person.token}",
        "--generation-database", "none", "--suppress-health-check", "all", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    lines = fuzzed.lines()
    assert not [line for line in lines if line["event"] in SURPRISES or line.get("status", 0) >= 500]
    statuses = {line["status"] for line in lines if line["event"] == "request"}
    assert {200, 201, 204, 400, 401, 404, 405, 415} <= statuses


@pytest.mark.timeout(240)
def test_every_check_on_every_operation(fuzzed: Fuzzed, moderator: Any) -> None:
    run(fuzzed, moderator, cases=4, seed=20261122)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("who", ["known", "moderator"])
def test_thousands_of_cases(request: pytest.FixtureRequest, fuzzed: Fuzzed, who: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    run(fuzzed, request.getfixturevalue(who), cases=200, seed=seed)
