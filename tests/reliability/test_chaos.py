"""Kill anything, any time: attacked runs end as if nothing had happened to them, bit for bit.

`make chaos` makes 200 such attacks; see tools/chaos.py for what they are.
"""

import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from chaos import attack_until, table  # noqa: E402
from chaos_processes import Preloaded, still_running  # noqa: E402
from chaos_runs import Workshop  # noqa: E402
from chaos_scenarios import SCENARIOS  # noqa: E402

# On a quiet machine two to three minutes; the time limit is for one that is busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_25_attacks_leave_no_trace(tmp_path):
    console = Console(width=80)
    with Preloaded() as preloaded, closing(Workshop(tmp_path, preloaded)) as workshop:
        results = attack_until(workshop, 25, seed=8, names=SCENARIOS, console=console)
    console.print(table(results, SCENARIOS))
    assert [problem for result in results for problem in result.problems] == []
    assert sum(len(result.struck) for result in results) == 25
    assert {result.plan.scenario for result in results if result.struck} == set(SCENARIOS)
    assert sum(result.bits for result in results) == 0
    assert still_running(workshop.processes()) == []
