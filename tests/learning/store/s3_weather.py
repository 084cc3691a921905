"""A proxy in front of a real S3 server that makes bad weather: lost answers, errors, resets, delays, truncated bodies."""

import dataclasses
import http.client
import random
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclasses.dataclass(frozen=True)
class Request:
    """What a fault plan may look at."""

    number: int
    method: str
    path: str
    headers: dict[str, str]

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")

    @property
    def conditional(self) -> bool:
        return bool({"if-none-match", "if-match"} & {name.lower() for name in self.headers})


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault: ``kind`` is a method name of the handler, ``status`` and ``code`` what it answers, ``seconds`` how long it waits."""

    kind: str
    status: int = 500
    code: str = "InternalError"
    seconds: float = 0.0


LOST_ANSWER = Fault("lost_answer")
"""The server commits, the answer never arrives."""
RESET = Fault("reset")
"""The connection breaks before the server sees the request."""
COMMITTED_500 = Fault("committed_error")
"""The server commits and a gateway answers 500."""
SLOW_DOWN = Fault("error", 503, "SlowDown")
CONFLICT = Fault("error", 409, "ConditionalRequestConflict")
INTERNAL_ERROR = Fault("error", 500, "InternalError")
ERROR_IN_200 = Fault("error", 200, "InternalError")
"""What S3 answers to a copy or a completed multipart upload that failed half-way."""
SKEWED = Fault("skewed", 403, "RequestTimeTooSkewed")
TRUNCATED = Fault("truncated")
"""Half of the body under the full Content-Length."""

WEATHER = (LOST_ANSWER, RESET, COMMITTED_500, SLOW_DOWN, INTERNAL_ERROR, Fault("delayed", seconds=0.2), TRUNCATED)

Plan = Callable[[Request], Fault | None]


def stormy(share: float, seed: int, faults: tuple[Fault, ...] = WEATHER) -> Plan:
    """Return a plan under which about ``share`` of the requests meet a fault, the same for the same seed."""
    draw = random.Random(seed)
    lock = threading.Lock()

    def plan(request: Request) -> Fault | None:
        with lock:
            return draw.choice(faults) if draw.random() < share else None

    return plan


class S3Weather:
    """A proxy on a free loopback port; ``plan`` decides request by request."""

    def __init__(self, upstream: str, plan: Plan = lambda request: None) -> None:
        self.plan = plan
        self.requests: list[tuple[Request, Fault | None]] = []
        self.upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"weather": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "S3Weather":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def decide(self, method: str, path: str, headers: dict[str, str]) -> Fault | None:
        with self._lock:
            request = Request(len(self.requests), method, path, headers)
            fault = self.plan(request)
            self.requests.append((request, fault))
        return fault


class _Handler(BaseHTTPRequestHandler):
    weather: S3Weather
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _handle(self) -> None:
        body = self._read_body()
        fault = self.weather.decide(self.command, self.path, dict(self.headers))
        if fault is None:
            self._answer(*self._forward(body))
        else:
            getattr(self, fault.kind)(fault, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def lost_answer(self, fault: Fault, body: bytes) -> None:
        self._forward(body)
        self._hang_up()

    def reset(self, fault: Fault, body: bytes) -> None:
        self._hang_up()

    def committed_error(self, fault: Fault, body: bytes) -> None:
        self._forward(body)
        self.error(fault, body)

    def delayed(self, fault: Fault, body: bytes) -> None:
        time.sleep(fault.seconds)
        self._answer(*self._forward(body))

    def truncated(self, fault: Fault, body: bytes) -> None:
        status, headers, answer = self._forward(body)
        self._answer(status, headers, answer[: len(answer) // 2], claimed=len(answer))
        self._hang_up()

    def skewed(self, fault: Fault, body: bytes) -> None:
        self.error(fault, body, date="Thu, 01 Jan 2026 00:00:00 GMT")

    def error(self, fault: Fault, body: bytes, date: str | None = None) -> None:
        answer = (
            f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{fault.code}</Code><Message>weather</Message></Error>".encode()
        )
        headers = [("Content-Type", "application/xml")] + ([("Date", date)] if date else [])
        self._answer(fault.status, headers, b"" if self.command == "HEAD" else answer)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(re.split(rb"[;\r]", self.rfile.readline())[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.weather.upstream, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "expect"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, response.getheaders(), answer

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, claimed: int | None = None) -> None:
        self.send_response_only(status)
        length = str(len(body) if claimed is None else claimed)
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
