import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_it_runs_as_a_module_and_as_a_script():
    for command in ([sys.executable, "-P", "-m", "splitleak"], [str(Path(sys.executable).with_name("splitleak"))]):
        if os.path.exists(command[0]):
            found = subprocess.run(
                [*command, "capture", "check", "/nothing"], capture_output=True, text=True, timeout=60
            )
            assert found.returncode == 1
            assert found.stderr.startswith("splitleak: ")
            assert "/nothing" in found.stderr
