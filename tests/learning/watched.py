"""Runs jobs in this process as ``python -m transfer_learning.run`` does, and writes down what they did behind everyone's back.

``python watched.py REPORT.json JOB.json …``: an audit hook that is there before anything else notes every pickled name that is
looked up, every socket, and every file of a model that is executed or could be.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

SOCKETS = ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "ctypes.dlopen")
HOSTILE = "hostile"
"""The folder below which every model of a test lies."""

seen: list[str] = []


def _is_hostile(path: object) -> bool:
    return f"/{HOSTILE}/" in str(path)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        seen.append(f"unpickled {arguments[0]}.{arguments[1]}")
    elif event in SOCKETS:
        seen.append(f"{event} {arguments[1:]!r}")
    elif event in PROGRAMS and any(map(_is_hostile, arguments)):
        seen.append(f"{event} {arguments!r}")
    elif event == "exec" and _is_hostile(getattr(arguments[0], "co_filename", "")):
        seen.append(f"executed {arguments[0].co_filename}")
    elif event == "import" and any(map(_is_hostile, (arguments[1], *(arguments[2] or ())))):
        seen.append(f"imported {arguments[0]}")
    elif event == "open" and _is_hostile(arguments[0]) and str(arguments[0]).endswith((".py", ".bin", ".pkl", ".pt")):
        seen.append(f"opened {arguments[0]}")


def main() -> None:
    """Run the jobs one after the other; each leaves its ``result.json``."""
    sys.addaudithook(_note)
    from transfer_learning import child, run

    report = {}
    for job in sys.argv[2:]:
        before = len(seen)
        os.environ.pop(child.PARENT, None)  # a job's child dies with its parent, and this one runs several jobs
        run.main([job])
        report[job] = seen[before:]
    Path(sys.argv[1]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
