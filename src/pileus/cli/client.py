"""A small client of the public API: log in, find a service in the catalog, send JSON.

The command line uses it for what it does as a user would, and so do the tests and the benchmark. It keeps one
connection open and knows nothing that an unmodified client could not know.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json", "Accept": "application/json"}


class ApiError(Exception):
    """An answer that is not a success. `status` is HTTP's; `message` is the cloud's own words."""

    def __init__(self, method: str, url: str, status: int, message: str) -> None:
        super().__init__(f"{method} {url} answered {status}: {message}")
        self.status = status
        self.message = message


class Unreachable(Exception):
    """Nothing answers at the URL."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content) if self.content else None


@dataclass(frozen=True)
class Credentials:
    auth_url: str
    username: str
    password: str
    project: str
    user_domain: str = "Default"
    project_domain: str = "Default"

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Credentials:
        """From the `OS_*` variables that `pileus env` prints. KeyError names the missing one."""
        return cls(
            env["OS_AUTH_URL"],
            env["OS_USERNAME"],
            env["OS_PASSWORD"],
            env["OS_PROJECT_NAME"],
            env.get("OS_USER_DOMAIN_NAME", "Default"),
            env.get("OS_PROJECT_DOMAIN_NAME", "Default"),
        )


class Client:
    """One user of the cloud. Not for use by several threads."""

    def __init__(self, credentials: Credentials, timeout_s: float = 60) -> None:
        self.credentials = credentials
        self.token = ""
        self.catalog: dict[str, str] = {}
        self.project_id = ""
        self._timeout_s = timeout_s
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def login(self) -> None:
        """Get a token and the catalog. Raises ApiError (401: wrong password) or Unreachable."""
        who = self.credentials
        user = {
            "name": who.username,
            "password": who.password,
            "domain": {"name": who.user_domain},
        }
        project = {"name": who.project, "domain": {"name": who.project_domain}}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": project},
            }
        }
        answer = self.send("POST", self._identity() + "/auth/tokens", body)
        token = answer.json["token"]
        self.token = answer.headers["x-subject-token"]
        self.project_id = token["project"]["id"]
        self.catalog = {
            service["type"]: endpoint["url"]
            for service in token["catalog"]
            for endpoint in service["endpoints"]
            if endpoint["interface"] == "public"
        }

    def _identity(self) -> str:
        url = self.credentials.auth_url.rstrip("/")
        return url if url.endswith("/v3") else url + "/v3"

    def call(self, method: str, service: str, path: str, body: object = None) -> Any:
        """The decoded body of one call to `service` (a type of the catalog); `path` starts with a slash."""
        if not self.token:
            self.login()
        return self.send(method, self.catalog[service].rstrip("/") + path, body).json

    def send(
        self,
        method: str,
        url: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. `body` is bytes as they are, or anything JSON can say. Raises ApiError from 400 on."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        answer = self.exchange(method, url, data, {**JSON, **(headers or {})})
        if answer.status >= 400:
            raise ApiError(method, url, answer.status, _message(answer))
        return answer

    def exchange(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        """One request and its answer, whatever its status. A kept connection that died is opened again once."""
        parts = urlsplit(url)
        target = parts.path + ("?" + parts.query if parts.query else "")
        sent = {"X-Auth-Token": self.token, **headers} if self.token else dict(headers)
        kept = parts.netloc in self._connections
        try:
            return self._once(parts.netloc, method, target, data, sent)
        except (http.client.HTTPException, OSError) as e:
            self._forget(parts.netloc)
            if not kept:
                raise Unreachable(f"{method} {url}: {e}") from e
        try:
            return self._once(parts.netloc, method, target, data, sent)
        except (http.client.HTTPException, OSError) as e:
            self._forget(parts.netloc)
            raise Unreachable(f"{method} {url}: {e}") from e

    def _once(
        self, netloc: str, method: str, target: str, data: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        connection = self._connections.get(netloc)
        if connection is None:
            connection = http.client.HTTPConnection(netloc, timeout=self._timeout_s)
            self._connections[netloc] = connection
        connection.request(method, target, data, dict(headers))
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def _forget(self, netloc: str) -> None:
        connection = self._connections.pop(netloc, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        for netloc in list(self._connections):
            self._forget(netloc)


def _message(answer: Answer) -> str:
    """The human part of an error body in whichever dialect it is."""
    try:
        body = answer.json
    except ValueError:
        return answer.content.decode(errors="replace").strip()[:500]
    while isinstance(body, dict) and body:
        if isinstance(body.get("message"), str):
            return str(body["message"])
        if isinstance(body.get("detail"), str):
            return str(body["detail"])
        body = next(iter(body.values()))
        body = body[0] if isinstance(body, list) and body else body
    return str(body)[:500]
