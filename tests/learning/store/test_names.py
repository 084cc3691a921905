"""Two hundred ways to leave the store's root by a name, an id or a key: each refused in one line, before any request."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from promises import sizes
from transfer_learning.errors import BadInput
from transfer_learning.store import Store
from transfer_learning.store.local import LocalObjectStore
from transfer_learning.store.object_store import MemoryObjectStore

DOTS = (
    "..",
    ".",
    "...",
    "%2e%2e",
    "%2E%2e",
    "%252e%252e",
    "..%00",
    ".%2e",
    "%2e.",
    "..;",
    "..\x00",
    "．．",
    "‥",
    "․․",
    "。。",
    "%c0%ae%c0%ae",
)
SLASHES = ("/", "//", "\\", "%2f", "%5c", "%252f", "∕", "／", "⧸", "＼", "%c0%af", "/./")
CLIMBING = [f"{dots}{slash}x" for dots in DOTS for slash in SLASHES]
ODD = [
    *("", " ", "\t", "\n", "\r\n", "\x00", "\x1b[2J", "\x7f", "\u200b", "\u202e", "\ufeff", "\u2028", "a\u0301", "é", "ß", "İ"),
    *("nеws", "ｎｅｗｓ", "𝐧𝐞𝐰𝐬", "NEWS", "News", "new s", "news\n", "\nnews", "news ", " news", "news\x00", "news\x00.json"),
    *("#", "a#b", "?", "a?b", "&", "a&b", "*", "~", "~root", "$HOME", "${HOME}", "`id`", "$(id)", "|", ";", "a:b", "C:", "C:x"),
    *(
        "-a",
        "_a",
        ".a",
        "a..b",
        "z" * 64,
        "z" * 100_000,
        "{{ 7 * 7 }}",
        "{% x %}",
        "<script>",
        "'",
        '"',
        "a@b",
        "a+b",
        "a=b",
        "a,b",
    ),
]
BYPASSES = sorted({*CLIMBING, *ODD})
PIECES = [*DOTS, *SLASHES, *(name for name in ODD if len(name) < 60), *"abcdefghijklmnopqrstuvwxyz0123456789._-" * 3]


def test_there_are_at_least_two_hundred() -> None:
    assert len(BYPASSES) >= 200


@pytest.mark.promise(22)
@pytest.mark.parametrize("place", ["memory", "folder"])
def test_no_name_leaves_the_root_or_reaches_the_store(tmp_path: Path, place: str, held: Callable[[str], None]) -> None:
    root = tmp_path / "outer" / "root"
    root.mkdir(parents=True)
    (tmp_path / "outer" / "x").write_text("outside")
    objects = MemoryObjectStore() if place == "memory" else LocalObjectStore(root)
    store, folder = Store(objects), tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))

    for name in BYPASSES:
        for use in uses(store, name, folder, tmp_path / "target"):
            with pytest.raises(BadInput) as caught:
                use()
            line = str(caught.value)
            assert (caught.value.code, "\n" in line, "\x1b" in line) == ("BAD_NAME", False, False), name
            assert len(line) < 300

    assert sorted(tmp_path.rglob("*")) == before
    assert list(objects.list("")) == []
    held(f"{len(BYPASSES)} bypass strings in {place}: none in, none out")


@pytest.mark.promise(22)
@pytest.mark.parametrize("count", sizes(500, 10_000))
def test_a_generated_name_stays_inside_or_is_refused(tmp_path: Path, count: int, held: Callable[[str], None]) -> None:
    root, chance, inside = tmp_path / "outer" / "root", random.Random(22), 0
    root.mkdir(parents=True)
    (tmp_path / "outer" / "secret").write_text("outside")
    store = Store(LocalObjectStore(root))
    for _ in range(count):
        name = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 4)))
        fits = re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name) is not None and ".." not in name
        with contextlib.nullcontext() if fits else pytest.raises(BadInput, match="^BAD_NAME"):
            store.aliases.read(name)
        with contextlib.suppress(BadInput):
            store.objects.put(f"names/{name}", b"")
            assert (root / "names" / name).is_file()
            inside += 1

    outside = {path for path in tmp_path.rglob("*") if root not in (path, *path.parents)}
    assert outside == {tmp_path / "outer", tmp_path / "outer" / "secret"}
    assert inside > count // 100
    held(f"{count:,} generated names: 0 outside")


def uses(store: Store, name: str, folder: Path, target: Path) -> list[Callable[[], object]]:
    publish = {"name": "news", "folder": folder, "publish_id": "p", "fingerprint": "f", "facts": {}}
    move = {"promote_id": "p", "actor": "ada", "reason": "x"}
    promote = {"expected_generation": None, "as_of": None, **move}
    return [
        lambda: store.models.publish(**publish | {"name": name}),
        lambda: store.models.manifest(name, 1),
        lambda: store.models.fetch(name, 1, target),
        lambda: store.models.find(name, "f"),
        lambda: store.aliases.read(name),
        lambda: store.aliases.read("news", name),
        lambda: store.aliases.promote(name, 1, **promote),
        lambda: store.aliases.promote("news", 1, alias=name, **promote),
        lambda: store.aliases.rollback("news", alias=name, **move),
        lambda: store.evaluations.read(name, 1),
        lambda: store.datasets.rule(name),
        lambda: store.datasets.latest(name),
        lambda: store.datasets.manifest("news", name),
        lambda: store.datasets.fetch(name, "0" * 64, destination=target),
    ]
