"""Signatures made with the secret of an EC2 credential: the four versions of EC2's, and S3's two.

Pure functions from what was signed to the text of the signature, plus when it says it was made. What each version signs
is told by Amazon: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit

import msgspec

from pileus.kernel.world import seconds_of

_V4 = "AWS4-HMAC-SHA256"
_S3_SERVICES = frozenset({"s3", "iam", "sts"})
_BOTO_WITHOUT_PORT = re.compile(r"Boto/2\.[0-9]\.[0-2]")  # boto before 2.9.3 signed no port
Text = str | int | float | bool


class Unsigned(Exception):
    """What was sent cannot have been signed. The text goes to the log only."""


class SignedRequest(msgspec.Struct):
    """A request to an EC2 API as its receiver describes it. `access` names the credential."""

    access: str
    signature: str = ""
    verb: str = ""
    host: str = ""
    path: str = ""
    params: dict[str, Text] = {}
    headers: dict[str, str] = {}
    body_hash: str = ""


def signed_by(secret: str, asked: SignedRequest) -> tuple[bool, float | None]:
    """Whether the secret made the signature, and the epoch seconds that it signed, if any. Raises Unsigned."""
    text = {str(k): _text(v) for k, v in asked.params.items()}
    version = text.get("SignatureVersion", "")
    if version in ("0", "1", "2"):
        expected = _old(secret, version, text, asked)
        return _is_any(asked.signature, expected), _time(text.get("Timestamp", ""))
    if version:
        raise Unsigned(f"unknown signature version {version[:16]!r}")
    made = _version_4(secret, text, asked)
    return _is_any(asked.signature, [made]), _time(_date_of(text, asked.headers))


def s3_signed_by(secret: str, token: str, signature: str) -> bool:
    """Whether the secret signed what `token` holds: an S3 request's text to sign, base64. Raises Unsigned."""
    try:
        to_sign = base64.urlsafe_b64decode(token.encode())
    except ValueError:
        raise Unsigned("the token is no base64") from None
    if to_sign.startswith(b"AWS4"):
        lines = to_sign.decode("latin-1").split("\n")
        scope = lines[2].split("/") if len(lines) == 4 else []
        if lines[0] != _V4 or len(scope) != 4 or scope[3] != "aws4_request":
            raise Unsigned("the text to sign is not of version 4")
        if scope[2] not in _S3_SERVICES:
            raise Unsigned(f"signed for {scope[2][:16]!r}, not for S3")
        return _is_any(signature, [_hex(_key(secret, scope[:3]), to_sign)])
    made = hmac.new(secret.encode(), to_sign, hashlib.sha1).digest()
    return _is_any(signature, [base64.b64encode(made).decode()])


def _is_any(given: str, expected: Iterable[str]) -> bool:
    """In constant time for each; an empty one never fits."""
    fits = [hmac.compare_digest(given.encode(), one.encode()) for one in expected]
    return bool(given) and any(fits)


def _text(value: Text) -> str:
    return value if isinstance(value, str) else str(value)


def _time(text: str) -> float | None:
    """Raises Unsigned for what is no time."""
    if not text:
        return None
    try:
        if re.fullmatch(r"\d{8}T\d{6}Z", text):
            return dt.datetime.strptime(text + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
        return seconds_of(text)
    except ValueError:
        raise Unsigned(f"the time {text[:40]!r} is none") from None


def _old(secret: str, version: str, params: dict[str, str], asked: SignedRequest) -> list[str]:
    """Versions 0 to 2; for 2 also without the port, which some clients do not sign."""
    if version == "0":
        signed = params.get("Action", "") + params.get("Timestamp", "")
        return [_base64(secret, signed, "sha1")]
    if version == "1":
        signed = "".join(k + params[k] for k in sorted(params, key=str.lower))
        return [_base64(secret, signed, "sha1")]
    query = _query({**params, "SignatureMethod": "HmacSHA256"})
    hosts = [asked.host]
    if ":" in asked.host:
        hosts.append(_hostname(asked.host))
    return [
        _base64(secret, f"{asked.verb}\n{host}\n{asked.path}\n{query}", "sha256") for host in hosts
    ]


def _hostname(host: str) -> str:
    try:
        return urlsplit("//" + host).hostname or ""
    except ValueError:
        raise Unsigned("the host is none") from None


def _base64(secret: str, signed: str, digest: str) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), signed.encode(), digest)).decode()


def _hex(key: bytes, signed: bytes) -> str:
    return hmac.digest(key, signed, "sha256").hex()


def _query(params: Mapping[str, str]) -> str:
    return "&".join(
        f"{quote(key, safe='')}={quote(params[key], safe='-_~')}" for key in sorted(params)
    )


def _version_4(secret: str, params: dict[str, str], asked: SignedRequest) -> str:
    date = _date_of(params, asked.headers)
    scope = _from_authorization("Credential", params, asked.headers).split("/")[1:]
    if len(scope) != 4 or scope[3] != "aws4_request" or not date.startswith(scope[0] or "?"):
        raise Unsigned("the credential's scope is not of version 4, or of another day")
    signed_headers = _from_authorization("SignedHeaders", params, asked.headers)
    request = "\n".join(
        (
            asked.verb.upper(),
            asked.path,
            "" if asked.verb.upper() == "POST" else _query(params),
            _canonical_headers(signed_headers, asked.headers),
            signed_headers,
            asked.body_hash,
        )
    )
    digest = hashlib.sha256(request.encode()).hexdigest()
    to_sign = "\n".join((_V4, date, "/".join(scope), digest))
    return _hex(_key(secret, scope[:3]), to_sign.encode())


def _key(secret: str, scope: Iterable[str]) -> bytes:
    """The key of one day, region and service."""
    key = b"AWS4" + secret.encode()
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _date_of(params: Mapping[str, str], headers: Mapping[str, str]) -> str:
    found = _header(headers, "x-amz-date") or params.get("X-Amz-Date", "")
    if not found:
        raise Unsigned("neither a signature version nor a date of version 4")
    return found


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((v for k, v in headers.items() if k.lower().strip() == name), "")


def _from_authorization(name: str, params: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """A part of the header Authorization, else the query's own parameter."""
    given = _header(headers, "authorization")
    if given:
        return given.partition(f"{name}=")[2].split(",")[0].strip()
    return params.get(f"X-Amz-{name}", "")


def _canonical_headers(signed: str, headers: Mapping[str, str]) -> str:
    lower = {k.lower().strip(): v.strip() for k, v in headers.items()}
    if _BOTO_WITHOUT_PORT.match(lower.get("user-agent", "")) and "host" in lower:
        lower["host"] = lower["host"].split(":")[0]
    return "".join(f"{name}:{lower[name]}\n" for name in signed.split(";") if name in lower)
