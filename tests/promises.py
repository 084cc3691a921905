"""The promises of this project, and the table of what was held at full size.

A test of a promise carries ``@pytest.mark.promise(number)`` and tells its figure to the fixture ``held``; ``sizes`` gives one test
body a small size for every day and the full one. With ``--promises=FOLDER`` what passes is remembered there, is not run again
until its source changes, and ends as a table on the screen and in the README.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

PROMISES = {
    1: ("kill -9 anywhere, resume, same model", "200 kills over 3 tasks: every tensor and metric equal"),
    2: ("many kills in one run", "25 kills of one run: same hashes, progress after every restart"),
    3: ("every row once per epoch, same order", "50 resume points: no repeat, no loss"),
    4: ("torn checkpoints never load", "500 damages: 500 detected, the one before is used"),
    5: ("SIGTERM", "50/50: retryable failure, child gone, never success; a checkpoint where it fits"),
    6: ("out of memory", "5 steps: same effective batch, gradients within 1e-6; 4 halvings, then one line"),
    7: ("divergence is never published", "30/30 NaN or infinity refused"),
    8: ("transfer really happened", "frozen tensors unchanged; only head keys differ from the base"),
    9: ("one version per publish", "16 writers, 1,000 publishes, 10% faults: 1,000 contiguous versions"),
    10: ("lost answers", "1,000 lost: 1,000 right outcomes; unreadable store: unknown, nothing deleted"),
    11: ("every interleaving", "100,000 schedules in 300 s: 0 violations"),
    12: ("aliases", "10,000 moves by 16 clients: linearizable; 1,000 late duplicates undo nothing"),
    13: ("publisher killed at each store call", "readers see the old state or the new one"),
    14: ("readers", "500 promotions during downloads: never a mix; 1,000 bit flips refused"),
    15: ("weak stores refused", "a store that ignores preconditions is refused at first use"),
    16: ("S3 weather", "5% faults: 500 flows finish; a dead endpoint ends in 60 s with one line"),
    17: ("operators are idempotent", "twice, at the same time, killed, cleared: same end state as once"),
    18: ("no orphan", "50/50: child and grandchild gone within 5 s of a kill of the task"),
    19: ("disk full", "50 byte budgets: one line, no partial output, old state intact"),
    20: ("nothing is ever unpickled", "0 pickles read; 60 hostile model files: 0 executions"),
    21: ("no remote code", "20 hostile configs: 0 sockets, 0 imports from the model's folder"),
    22: ("names stay inside", "10,000 generated names and 200 bypass strings: 0 keys outside the root"),
    23: ("bombs and slips", "40 archives and images: 10 s and 512 MB at most"),
    24: ("the page", "every route and user as declared; 50 XSS strings inert"),
    25: ("secrets", "a canary key: 0 hits in logs, XCom, manifests, rendered fields, tracebacks"),
    26: ("stale features", "30 one-byte changes: 30 misses"),
    27: ("bad input", "one line, exit code, nothing written"),
    28: ("no test row trains", "1,000 random histories: 0 test rows in the ledgers of what is compared"),
}
NOT_BUILT = {
    1: "1 more task is not built yet",
    23: "not built yet",
    24: "not built yet",
    27: "images and archives are not built yet",
}
"""What does not exist yet; a promise without any test is shown as this alone."""

BEGIN, END = "<!-- promises -->", "<!-- /promises -->"
SOURCE = ("include", "plugins", "dags", "docker", "pyproject.toml")


def sizes(small: Any, full: Any) -> list[Any]:
    """Return the two sizes of a promise for ``pytest.mark.parametrize``."""
    return [pytest.param(small, marks=pytest.mark.sample, id="sample"), pytest.param(full, marks=pytest.mark.full, id="full")]


@pytest.fixture
def held(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Tells the figure that a test of a promise held."""
    return lambda figure: request.node.user_properties.append(("held", figure))


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--promises FOLDER`` remembers what passed and makes the table."""
    parser.addoption("--promises", type=Path, metavar="FOLDER", help="remember what passed here, and write the table")


def pytest_configure(config: pytest.Config) -> None:
    if folder := config.getoption("--promises"):
        config.pluginmanager.register(Ledger(config, config.rootpath / folder / "results.jsonl"))


@dataclasses.dataclass(frozen=True)
class Result:
    """How one test of a promise ended."""

    test: str
    promise: int
    held: str
    seconds: float
    passed: bool
    key: str
    """Of the source that was tested."""
    ended: str


class Ledger:
    """Remembers results between runs and makes the table from those that still count."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config, self._path, self._root = config, path, config.rootpath
        self._keys: dict[str, str] = {}
        self._missing: collections.Counter[int] = collections.Counter()
        self._last: Result | None = None
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        results = [Result(**json.loads(line)) for line in lines]
        self._results = {result.test: result for result in results if result.key == self._key(result.test)}

    @pytest.hookimpl(trylast=True)  # after -m and -k
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        done = [item for item in items if (found := self._results.get(item.nodeid)) and found.passed]
        self._config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item not in done]
        self._missing.update(number_of(item) for item in items)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        outcome: Any = yield
        report = outcome.get_result()
        if report.when == "call" or (report.when == "setup" and not report.passed):
            figures = ", ".join(figure for name, figure in item.user_properties if name == "held")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._last = Result(
                item.nodeid, number_of(item), figures, report.duration, report.passed, self._key(item.nodeid), now
            )
        if report.when == "teardown" and self._last is not None:  # before, a test may have left no room to write
            self._add(dataclasses.replace(self._last, passed=self._last.passed and report.passed))
            self._last = None

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._results:
            session.exitstatus = pytest.ExitCode.OK  # all of them passed before

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        rows = [self._row(number) for number in PROMISES]
        terminalreporter.section("promises")
        for row in rows:
            terminalreporter.write_line(" | ".join(row))
        readme = self._root / "README.md"
        option, source = self._config.option, self._config.args_source
        if not (option.keyword or option.deselect) and source is pytest.Config.ArgsSource.TESTPATHS:
            text = readme.read_text(encoding="utf-8")
            table = "\n".join([self._caption(), "", *markdown(rows)])
            readme.write_text(re.sub(f"(?s){BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table}\n{END}", text), encoding="utf-8")

    def _add(self, result: Result) -> None:
        self._results[result.test] = result
        self._missing[result.promise] -= 1
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")

    def _row(self, number: int) -> tuple[str, ...]:
        results = [result for result in self._results.values() if result.promise == number]
        figures = [result.held for result in results if result.held]
        if others := sum(result.passed and not result.held for result in results):
            figures.append(f"{others}{' more' if figures else ''} test{'s' * (others > 1)} passed")
        if failed := [result.test.rpartition("::")[2] for result in results if not result.passed]:
            figures.insert(0, f"**FAILED**: {', '.join(failed)}")
        if self._missing[number] > 0 or not (results or number in NOT_BUILT):
            figures.append("the rest was not run" if results else "not run")
        figures += [NOT_BUILT[number]] if number in NOT_BUILT else []
        seconds = sum(result.seconds for result in results)
        return str(number), *PROMISES[number], "; ".join(figures), f"{seconds:,.0f}" if results else ""

    def _caption(self) -> str:
        total = sum(result.seconds for result in self._results.values())
        days = sorted({result.ended[:10] for result in self._results.values()})
        python, cores = platform.python_version(), os.cpu_count()
        return (
            f"Source of commit {self._commit()}, {' to '.join(days[:1] + days[1:][-1:])}, "
            f"{cores} cores, Python {python}, {total / 60:.0f} minutes in all."
        )

    def _commit(self) -> str:
        def git(*arguments: str) -> str:
            done = subprocess.run(["git", *arguments, "--", *SOURCE], cwd=self._root, capture_output=True, text=True, check=False)
            return done.stdout.strip()

        changed = " with changes" if git("status", "--porcelain") else ""
        return (git("log", "-1", "--format=%h") or "unknown") + changed

    def _key(self, test: str) -> str:
        """Return the sha256 over the product, the test's own file and what it imports of the tests."""
        own = test.partition("::")[0]
        if own not in self._keys:
            found = {path for part in SOURCE for path in ((self._root / part), *(self._root / part).rglob("*"))}
            found |= imported(self._root / own, self._root / "tests") - {Path(__file__)}
            key = hashlib.sha256()
            for path in sorted(path for path in found if path.is_file() and path.suffix != ".pyc"):
                key.update(f"{path.relative_to(self._root)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
            self._keys[own] = key.hexdigest()
        return self._keys[own]


def imported(test: Path, root: Path) -> set[Path]:
    """Return a test file, the conftests above it, and the files below ``root`` that these import, and so on."""
    found, waiting = (
        set[Path](),
        {test, *(folder / "conftest.py" for folder in test.parents if root in (folder, *folder.parents))},
    )
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                names = [".".join([*module, alias.name]) for alias in node.names]
                waiting |= {root / f"{name.replace('.', '/')}.py" for name in (*module, *names)}
    return found


def number_of(item: pytest.Item) -> int:
    """Return the promise that a test belongs to; 0 for a test of full size without one."""
    marker = item.get_closest_marker("promise")
    return marker.args[0] if marker else 0


def markdown(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table."""
    head = ("#", "promise", "figure wanted", "figure held", "seconds")
    return [f"| {' | '.join(row)} |" for row in (head, ("--:", "---", "---", "---", "--:"), *rows)]
