"""What the commands say, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transfer_learning.store.artifacts import size_text
from transfer_learning.store.moves import Alias

COLUMNS = ("model", "version", "aliases", "created", "dataset", "accuracy", "verdict", "size")
SPLITS = ("train", "validation", "test", "unlabelled")


def summarise(
    manifest: Mapping[str, Any], aliases: Mapping[str, Alias], verdicts: Sequence[Mapping[str, Any]], root: str
) -> dict[str, Any]:
    """Return the figures of one version; the accuracy is that of the newest verdict, None without one."""
    verdict = verdicts[-1] if verdicts else {}
    dataset = manifest["facts"].get("dataset") or {}
    return {
        "model": manifest["name"],
        "version": manifest["version"],
        "aliases": sorted(alias for alias, found in aliases.items() if found.version == manifest["version"]),
        "created": manifest["created"],
        "dataset": dataset.get("name"),
        "rows": dataset.get("rows"),
        "accuracy": ((verdict.get("metrics") or {}).get("candidate") or {}).get("accuracy"),
        "verdict": verdict.get("decision"),
        "bytes": sum(file["bytes"] for file in manifest["files"]),
        "uri": f"{root}/{manifest['artifact']}",
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return summaries as an aligned table with a header."""
    return _aligned([COLUMNS, *(_cells(row) for row in rows)])


def pruned(answer: Mapping[str, Any]) -> str:
    """Return which versions were pruned, or would be."""
    rows = answer["versions"]
    if not rows:
        return f"Nothing to prune: every version of {answer['model']} is needed."
    lines = [
        ("version", "created", "files", "size", ""),
        *(
            (str(row["version"]), _time(row["created"]), str(row["files"]), size_text(row["bytes"]), _outcome(row["outcome"]))
            for row in rows
        ),
    ]
    return f"{_aligned(lines)}\n{_sum(answer, _count(len(rows), 'version') + ' of ' + answer['model'])}"


def garbage(answer: Mapping[str, Any], root: str) -> str:
    """Return what was collected, or would be."""
    rows = answer["findings"]
    if not rows:
        return f"No garbage older than {answer['older_than']} below {root}."
    lines = [
        ("what", "where", "newest", "files", "size", "why", ""),
        *(
            (
                row["kind"],
                _printable(row["key"]),
                _time(row["newest"]),
                str(row["files"]),
                size_text(row["bytes"]),
                row["reason"],
                "to complete" if row["outcome"] == "found" and row["action"] == "complete" else _outcome(row["outcome"]),
            )
            for row in rows
        ),
    ]
    return f"{_aligned(lines)}\n{_sum(answer, _count(len(rows), 'finding'))}"


def total(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes that went, or would go."""
    return sum(row["bytes"] for row in rows if row.get("action") != "complete" and row["outcome"] in ("found", "deleted"))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _outcome(outcome: str) -> str:
    return "" if outcome == "found" else outcome


def _sum(answer: Mapping[str, Any], what: str) -> str:
    size = size_text(answer["bytes"])
    return f"{size} deleted ({what})." if answer["deleted"] else f"{size} could go ({what}); --delete does it."


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def details(shown: Mapping[str, Any]) -> str:
    """Return one version with its circumstances, verdict, files and alias histories."""
    return "\n".join(_printable(line) for line in _details(shown))


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would obey; spaces that align columns stay."""
    return "".join(c if c.isprintable() else " " for c in text)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    rows = f", {row['rows']:,} rows" if row["rows"] is not None else ""
    accuracy = f"{row['accuracy']:.3f}" if row["accuracy"] is not None else "-"
    dataset = f"{row['dataset'] or '-'}{rows}"
    texts = (
        row["model"],
        row["version"],
        ", ".join(row["aliases"]) or "-",
        _time(row["created"]),
        dataset,
        accuracy,
        row["verdict"] or "-",
        size_text(row["bytes"]),
    )
    return tuple(_printable(str(text)) for text in texts)


def _details(shown: Mapping[str, Any]) -> Iterator[str]:
    manifest, facts = shown["manifest"], shown["manifest"]["facts"]
    yield f"{shown['model']} version {shown['version']}" + (f" ({', '.join(shown['aliases'])})" if shown["aliases"] else "")
    yield f"  created   {_time(shown['created'])}"
    if dataset := facts.get("dataset"):
        counts = dataset.get("splits") or {}
        splits = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS if split in counts)
        yield f"  dataset   {dataset.get('name')}, {dataset.get('rows'):,} rows ({splits})"
    for label, value in (
        ("base", (facts.get("base") or {}).get("uri")),
        ("as of", facts.get("as_of")),
        ("run", facts.get("run")),
    ):
        if value:
            yield f"  {label:<9} {value}"
    if manifest["parents"]:
        yield f"  parents   {', '.join(map(str, manifest['parents']))}"
    yield f"  stored    {size_text(shown['bytes'])}, of which {size_text(manifest['bytes_uploaded'])} were uploaded"
    yield f"  uri       {shown['uri']}"
    for verdict in shown["evaluations"]:
        yield f"  verdict   {verdict['decision']}, {_time(verdict['written'])}"
        yield from (f"    {sentence}" for sentence in verdict.get("sentences", ()))
    yield "  files"
    yield from (f"    {file['sha256'][:12]}  {size_text(file['bytes']):>12}  {file['path']}" for file in manifest["files"])
    for alias, history in shown["history"].items():
        yield f"  {alias}, newest first"
        yield from (f"    {_move(past)}" for past in reversed(history))


def _move(past: Mapping[str, Any]) -> str:
    verb = "rolled back to" if past["kind"] == "rollback" else "promoted"
    why = [past["reason"], f"override: {past['override_reason']}" if past["override_reason"] else "", *past["overridden"]]
    who = f"{verb} version {past['version']} by {past['actor']}"
    return f"{past['generation']:>3}  {_time(past['at'])}  {who}: {'; '.join(filter(None, why))}"


def _time(text: str) -> str:
    return text[:16].replace("T", " ")
