"""Commands that start others, or only read files, do not load torch."""

import subprocess
import sys

import pytest

from processes import environment

MODULES = ("tune", "pipeline", "reproduce", "store", "data", "doctor")


@pytest.mark.parametrize("module", MODULES)
def test_a_command_answers_without_torch(module):
    """torch takes two seconds and 200 MB, beside the runs that need both."""
    code = f"import sys, dist_oaa.stages.{module}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "False", found.stderr
