"""Every answer of S3 that matters becomes one of the project's errors, in one line, and never shows a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError
from s3transfer.exceptions import RetriesExceededError

from transfer_learning.errors import BadInput, ObjectMissing, OutcomeUnknown, PreconditionFailed, StoreUnreachable
from transfer_learning.store.s3_errors import explain, is_weather

pytestmark = pytest.mark.promise(27)

KEY_ID = "AKIACANARY"
URL = "http://127.0.0.1:8333"
REFUSED = boto.EndpointConnectionError(endpoint_url=URL, error="refused")
TIMED_OUT = boto.ReadTimeoutError(endpoint_url=URL, error="timed out")
HUNG_UP = boto.ConnectionClosedError(endpoint_url=URL)


def answer(status: int, code: str, message: str = "", headers: dict[str, str] | None = None, **details: str) -> ClientError:
    error = {"Code": code, "Message": message, **details}
    metadata: Any = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return ClientError({"Error": error, "ResponseMetadata": metadata}, "PutObject")


def explained(error: Exception, *, writing: bool = True) -> BaseException:
    return explain(error, doing="write", uri="s3://news/store/a.json", endpoint=URL, writing=writing)


@pytest.mark.parametrize(
    ("status", "code", "line"),
    [
        (403, "AccessDenied", "ACCESS_DENIED"),
        (403, "InvalidAccessKeyId", "ACCESS_DENIED"),
        (403, "SignatureDoesNotMatch", "ACCESS_DENIED"),
        (401, "Unauthorized", "ACCESS_DENIED"),
        (403, "403", "ACCESS_DENIED"),
        (400, "ExpiredToken", "CREDENTIALS_EXPIRED"),
        (403, "RequestTimeTooSkewed", "CLOCK_SKEW"),
        (404, "NoSuchBucket", "NO_BUCKET"),
        (301, "PermanentRedirect", "WRONG_REGION"),
        (400, "AuthorizationHeaderMalformed", "WRONG_REGION"),
        (400, "EntityTooLarge", "STORE_REFUSED"),
    ],
)
def test_what_a_person_must_correct_is_one_line_with_the_code_of_s3(status: int, code: str, line: str) -> None:
    error = explained(answer(status, code, f"the key {KEY_ID} is wrong" if status in (401, 403) else "\nno\n"))

    assert isinstance(error, BadInput)
    assert str(error).startswith(f"{line} s3://news/store/a.json the server at {URL} refused to write: S3 code {code}")
    assert "\n" not in str(error)
    assert KEY_ID not in str(error)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", ObjectMissing),
        (404, "404", ObjectMissing),
        (412, "PreconditionFailed", PreconditionFailed),
        (409, "ConditionalRequestConflict", PreconditionFailed),
    ],
)
def test_what_the_store_itself_settles_has_an_error_of_its_own(status: int, code: str, kind: type[Exception]) -> None:
    assert isinstance(explained(answer(status, code)), kind)


WEATHER = [
    answer(500, "InternalError"),
    answer(503, "SlowDown"),
    answer(429, "TooManyRequests"),
    answer(400, "RequestTimeout"),
    answer(409, "OperationAborted"),
    answer(200, "InternalError"),
    TIMED_OUT,
    HUNG_UP,
    RetriesExceededError(HUNG_UP),
]


@pytest.mark.parametrize("error", WEATHER, ids=str)
def test_weather_leaves_a_write_unknown_and_a_read_unanswered(error: Exception) -> None:
    assert is_weather(error)
    assert isinstance(explained(error, writing=True), OutcomeUnknown)
    assert isinstance(explained(error, writing=False), StoreUnreachable)


def test_a_refused_connection_means_that_nothing_was_written() -> None:
    error = explained(REFUSED, writing=True)

    assert isinstance(error, StoreUnreachable)
    assert URL in str(error)


@pytest.mark.parametrize(("minutes", "words"), [(-20, "20 minutes ahead of"), (31, "31 minutes behind")])
def test_a_wrong_clock_is_told_by_how_much(minutes: int, words: str) -> None:
    theirs = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)

    error = explained(answer(403, "RequestTimeTooSkewed", headers={"date": theirs}))

    assert f"this clock is {words} the server's" in str(error)


def test_a_wrong_region_names_the_right_one() -> None:
    by_header = explained(answer(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}))
    by_body = explained(answer(400, "AuthorizationHeaderMalformed", Region="eu-west-1"))

    assert "the bucket lies in region eu-west-1" in str(by_header)
    assert "the bucket lies in region eu-west-1" in str(by_body)


@pytest.mark.parametrize("error", [boto.NoCredentialsError(), boto.ProfileNotFound(profile="night")], ids=str)
def test_missing_credentials_are_one_line(error: Exception) -> None:
    assert str(explained(error)).startswith("NO_CREDENTIALS s3://news/store/a.json no credentials to write at")


def test_an_error_of_another_kind_stays_what_it_is() -> None:
    error = KeyError("a bug")

    assert explained(error) is error
