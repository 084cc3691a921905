"""What S3's answers mean: the one table of statuses and codes."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import botocore.exceptions as boto
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError

from transfer_learning.errors import (
    BadInput,
    ObjectMissing,
    OutcomeUnknown,
    PreconditionFailed,
    StoreUnreachable,
    TransferLearningError,
)
from transfer_learning.store.patience import OutOfTime

MISSING = {"NoSuchKey", "404", "NotFound"}
LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
WRONG_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"}
SKEWED = {"RequestTimeTooSkewed", "RequestInTheFuture", "RequestExpired"}
WEATHER = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "BadDigest", "IncompleteBody"}
WEATHER_STATUSES = {408, 425, 429, 500, 502, 503, 504}

NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.ProfileNotFound,
)
REFUSED = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
"""Nothing was sent."""
LOST = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.FlexibleChecksumError, ResponseParserError)
"""The answer was lost or damaged on its way."""


class ErrorInsteadOfObject(Exception):
    """A read answered 200, with an error document as its body."""


def is_weather(error: BaseException) -> bool:
    """Return whether the same request may work in a moment."""
    if isinstance(error, ClientError):
        code, status = _code(error), _status(error)
        return (code in WEATHER or status in WEATHER_STATUSES) and code not in LOST_RACE
    return isinstance(error, (ErrorInsteadOfObject, RetriesExceededError, *REFUSED, *LOST))


def is_expired(error: BaseException) -> bool:
    """Return whether new credentials may help; the answer to a HEAD has no code, so its status must do."""
    return isinstance(error, ClientError) and (_code(error) in EXPIRED or _code(error) in ("400", "403"))


def explain(error: BaseException, *, doing: str, uri: str, endpoint: str, writing: bool) -> BaseException:
    """Return the project's own error for one of boto3's; an unknown exception comes back as it is.

    Args:
        error: what boto3 raised.
        doing: such as ``"write"``, for the message.
        uri: of the object.
        endpoint: of the server.
        writing: whether a lost answer leaves the outcome unknown.
    """
    if isinstance(error, RetriesExceededError):
        error = error.last_exception
    if is_weather(error) or isinstance(error, OutOfTime):
        unsure = writing and not isinstance(error, REFUSED)
        kind = OutcomeUnknown if unsure else StoreUnreachable
        return kind(f"{endpoint} gave no usable answer when asked to {doing} {uri}: {_brief(error)}")
    if isinstance(error, ClientError):
        return _explain_answer(error, doing, uri, endpoint)
    if isinstance(error, NO_CREDENTIALS):
        return BadInput(
            "NO_CREDENTIALS",
            f"no credentials to {doing} at {endpoint} ({type(error).__name__})",
            "give the AWS connection a login and password, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            file=uri,
        )
    if isinstance(error, boto.BotoCoreError):
        return BadInput("BAD_REQUEST", f"cannot {doing}: {error}", "correct the root or the connection", file=uri)
    return error


def _explain_answer(error: ClientError, doing: str, uri: str, endpoint: str) -> TransferLearningError:
    code, status = _code(error), _status(error)
    asked = f"the server at {endpoint} refused to {doing}: S3 code {code}"
    if code == "NoSuchBucket":
        return BadInput("NO_BUCKET", asked, "create the bucket or correct the root", file=uri)
    if code in MISSING or status == 404:
        return ObjectMissing(f"no object {uri}")
    if code in LOST_RACE or status in (409, 412):
        return PreconditionFailed(f"{uri} was written by somebody else first ({code})")
    if code in WRONG_REGION or status == 301:
        return BadInput("WRONG_REGION", f"{asked}{_region(error)}", "set that region in the connection", file=uri)
    if code in EXPIRED:
        return BadInput("CREDENTIALS_EXPIRED", asked, "renew the session token in the connection", file=uri)
    if code in SKEWED:
        return BadInput("CLOCK_SKEW", f"{asked}{_offset(error)}", "correct this machine's clock", file=uri)
    if status in (401, 403) or code.startswith("Authorization"):
        # Not the server's own message: some repeat the key in it.
        return BadInput("ACCESS_DENIED", asked, "check the connection's keys and what its policy allows", file=uri)
    return BadInput("STORE_REFUSED", f"{asked} ({status}): {_message(error)}", "check the root and the connection", file=uri)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _message(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))[:200]


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _headers(error: ClientError) -> dict[str, Any]:
    return dict(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def _brief(error: BaseException) -> str:
    if isinstance(error, ClientError):
        return f"S3 code {_code(error)}, status {_status(error)}"
    return str(error) or type(error).__name__


def _region(error: ClientError) -> str:
    details: dict[str, Any] = dict(error.response.get("Error", {}))
    region = details.get("Region") or _headers(error).get("x-amz-bucket-region")
    return f"; the bucket lies in region {region}" if region else "; the bucket lies in another region"


def _offset(error: ClientError) -> str:
    try:
        theirs = parsedate_to_datetime(str(_headers(error)["date"]))
    except (KeyError, ValueError):
        return ""
    minutes = (datetime.now(UTC) - theirs).total_seconds() / 60
    return f"; this clock is {abs(minutes):.0f} minutes {'ahead of' if minutes > 0 else 'behind'} the server's"
