from __future__ import annotations

import pytest

from learning.pulling import Puller


@pytest.fixture
def puller(tmp_path):
    return Puller(tmp_path / "pulls")
