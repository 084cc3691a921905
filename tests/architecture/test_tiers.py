"""The fast run deselects by marker, so what starts a server must carry one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(("mark", "accepted"), [("", False), ("@pytest.mark.integration", True)])
def test_a_test_that_starts_the_server_without_a_marker_fails_collection(tmp_path: Path, mark: str, accepted: bool) -> None:
    (tmp_path / "test_server.py").write_text(f"import pytest\n\n{mark}\ndef test_it(seaweedfs): pass\n")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "conftest", "-c", str(TESTS.parent / "pyproject.toml")]

    ended = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode == 0) is accepted, ended.stdout + ended.stderr
    assert ("mark it with @pytest.mark.integration" in ended.stderr) is not accepted
