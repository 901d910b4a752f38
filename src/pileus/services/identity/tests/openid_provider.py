"""A real OpenID provider for tests: Authlib's authorization server on a port of its own, with keys that rotate."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc6749.models import AuthorizationCodeMixin, ClientMixin, TokenMixin
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc8628 import (
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    DeviceCredentialDict,
)
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from authlib.oidc.core.grants import OpenIDCode
from flask import Flask, Response, jsonify, request
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # the provider listens on 127.0.0.1 only
CLIENT, SECRET = "pileus", "known only to us & them"
AUTH_METHODS = ("client_secret_basic", "client_secret_post")
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
GRANTS = ("authorization_code", "password", "client_credentials", DEVICE)
_TOKEN_S = 300


class App(ClientMixin):  # type: ignore[misc]
    """The one client: the cloud, and the programs of its users."""

    client_id = CLIENT

    def __init__(self) -> None:
        self.redirect_uris: set[str] = set()

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return next(iter(self.redirect_uris))

    def get_allowed_scope(self, scope: str) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in AUTH_METHODS

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in GRANTS


class Person:
    def __init__(self, sub: str, password: str, **claims: Any) -> None:
        self.sub, self.password, self.claims = sub, password, claims

    def get_user_id(self) -> str:
        return self.sub


class Code(AuthorizationCodeMixin):  # type: ignore[misc]
    """What a browser carries back."""

    def __init__(self, asked: Any, user: Person) -> None:
        data = asked.payload.data
        self.user, self.scope = user, data.get("scope", "")
        self.redirect_uri = data.get("redirect_uri")
        self.nonce = data.get("nonce")
        self.code_challenge = data.get("code_challenge")
        self.code_challenge_method = data.get("code_challenge_method")

    def get_redirect_uri(self) -> Any:
        return self.redirect_uri

    def get_scope(self) -> str:
        return str(self.scope)

    def get_nonce(self) -> Any:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class Issued(TokenMixin):  # type: ignore[misc]
    """What it knows of an access token that it made."""

    def __init__(self, token: dict[str, Any], user: Person | None) -> None:
        self.text, self.user = token["access_token"], user
        self.expires_at = int(time.time()) + int(token["expires_in"])

    def check_client(self, client: Any) -> bool:
        return True

    def is_expired(self) -> bool:
        return self.expires_at < time.time()

    def is_revoked(self) -> bool:
        return False


class OpenIdProvider:
    """`user` is whom a browser is logged in as; `opaque`: access tokens say nothing to who can't ask here."""

    def __init__(self, url: str) -> None:
        self.url, self.app, self.people = url, App(), dict[str, Person]()
        self.keys: list[Any] = []
        self.user = ""
        self.opaque = False
        self.auth_methods: list[str] = []  # of clients, as its document names them
        self.audience: Any = CLIENT
        self.lies: dict[str, Any] = {}  # claims that its tokens bear instead of the true ones
        self.robot: dict[str, Any] = {}  # claims of the client itself
        self.codes: dict[str, Code] = {}
        self.devices: dict[str, Any] = {}
        self.issued: dict[str, Issued] = {}
        self.asked: list[str] = []  # the paths of all requests
        self.rotate()

    def rotate(self) -> None:
        """A new key signs from now on; those of before are no longer published."""
        kid = f"key-{len(self.asked)}-{time.monotonic_ns()}"
        self.keys = [RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})]

    def add(self, sub: str, password: str = "pw", **claims: Any) -> None:
        self.people[sub] = Person(sub, password, **claims)

    def private(self) -> KeySet:
        return KeySet(list(self.keys))

    def claims(self, user: Person | None) -> dict[str, Any]:
        return {"sub": user.sub, **user.claims} if user is not None else self.robot

    def web(self) -> Flask:
        web = Flask("openid-provider")
        server = _server(self, web)

        @web.before_request
        def note() -> None:
            self.asked.append(request.path)

        @web.get("/.well-known/openid-configuration")
        def discovery() -> Response:
            return jsonify(
                issuer=self.url,
                authorization_endpoint=f"{self.url}/authorize",
                token_endpoint=f"{self.url}/token",
                userinfo_endpoint=f"{self.url}/userinfo",
                introspection_endpoint=f"{self.url}/introspect",
                device_authorization_endpoint=f"{self.url}/device",
                jwks_uri=f"{self.url}/keys",
                response_types_supported=["code"],
                grant_types_supported=list(GRANTS),
                token_endpoint_auth_methods_supported=self.auth_methods,
                id_token_signing_alg_values_supported=["RS256"],
            )

        @web.get("/keys")
        def keys() -> Response:
            return jsonify(keys=[key.as_dict(private=False) for key in self.keys])

        @web.get("/authorize")
        def authorize() -> Any:
            person = self.people[self.user]
            grant = server.get_consent_grant(end_user=person)
            return server.create_authorization_response(grant_user=person, grant=grant)

        @web.post("/token")
        def token() -> Any:
            return server.create_token_response()

        @web.get("/userinfo")
        def userinfo() -> Any:
            text = request.headers.get("authorization", "").removeprefix("Bearer ")
            known = self.issued.get(text)
            return jsonify(self.claims(known.user)) if known else ("no", 401)

        @web.post("/introspect")
        def introspect() -> Any:
            return server.create_endpoint_response(IntrospectionEndpoint.ENDPOINT_NAME)

        @web.post("/device")
        def device() -> Any:
            return server.create_endpoint_response(DeviceAuthorizationEndpoint.ENDPOINT_NAME)

        return web


class Tokens(JWTBearerTokenGenerator):  # type: ignore[misc]
    provider: ClassVar[OpenIdProvider]

    def get_jwks(self) -> KeySet:
        return self.provider.private()

    def get_audiences(self, client: Any, user: Any, scope: str) -> Any:
        return self.provider.audience

    def get_extra_claims(self, client: Any, grant_type: str, user: Any, scope: str) -> Any:
        return {**self.provider.claims(user), **self.provider.lies}

    def access_token_generator(self, client: Any, grant_type: str, user: Any, scope: str) -> str:
        if self.provider.opaque:
            return os.urandom(16).hex()
        return str(super().access_token_generator(client, grant_type, user, scope))


class Codes(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    provider: ClassVar[OpenIdProvider]

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def save_authorization_code(self, code: str, asked: Any) -> None:
        self.provider.codes[code] = Code(asked, asked.user)

    def query_authorization_code(self, code: str, client: Any) -> Code | None:
        return self.provider.codes.get(code)

    def delete_authorization_code(self, code: Code) -> None:
        self.provider.codes = {k: c for k, c in self.provider.codes.items() if c is not code}

    def authenticate_user(self, code: Code) -> Person:
        return code.user


class Passwords(grants.ResourceOwnerPasswordCredentialsGrant):  # type: ignore[misc]
    provider: ClassVar[OpenIdProvider]

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def authenticate_user(self, username: str, password: str) -> Person | None:
        person = self.provider.people.get(username)
        return person if person is not None and person.password == password else None


class Identity(OpenIDCode):  # type: ignore[misc]
    provider: ClassVar[OpenIdProvider]

    def exists_nonce(self, nonce: str, asked: Any) -> bool:
        return False

    def resolve_client_private_key(self, client: Any) -> KeySet:
        return self.provider.private()

    def get_client_claims(self, client: Any) -> dict[str, Any]:
        now = int(time.time())
        return {"iss": self.provider.url, "aud": [CLIENT], "iat": now, "exp": now + _TOKEN_S}

    def generate_user_info(self, user: Person, scope: str) -> dict[str, Any]:
        return {**self.provider.claims(user), **self.provider.lies}


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    provider: ClassVar[OpenIdProvider]

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, text: str, hint: str) -> Issued | None:
        return self.provider.issued.get(text)

    def check_permission(self, token: Issued, client: Any, asked: Any) -> bool:
        return True

    def introspect_token(self, token: Issued) -> dict[str, Any]:
        known = {"active": True, "iss": self.provider.url, "client_id": CLIENT}
        known |= {"aud": self.provider.audience, "exp": token.expires_at}
        return {**known, **self.provider.claims(token.user), **self.provider.lies}


class Devices(DeviceAuthorizationEndpoint):  # type: ignore[misc]
    provider: ClassVar[OpenIdProvider]

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def get_verification_uri(self) -> str:
        return f"{self.provider.url}/activate"

    def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
        kept = {"client_id": client_id, "scope": scope, "expires_at": time.time() + 60, **data}
        self.provider.devices[data["device_code"]] = DeviceCredentialDict(kept)


class DeviceCodes(DeviceCodeGrant):  # type: ignore[misc]
    """Whoever sits at the browser allows it at once."""

    provider: ClassVar[OpenIdProvider]

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def query_device_credential(self, device_code: str) -> Any:
        return self.provider.devices.get(device_code)

    def query_user_grant(self, user_code: str) -> Any:
        return self.provider.people[self.provider.user], True

    def should_slow_down(self, credential: Any) -> bool:
        return False


def _bound(kind: Any, provider: OpenIdProvider) -> Any:
    """The kind, for this provider: the server itself makes the instances."""
    return type(kind.__name__, (kind,), {"provider": provider})


def _server(provider: OpenIdProvider, web: Flask) -> Any:
    def save(token: dict[str, Any], asked: Any) -> None:
        provider.issued[token["access_token"]] = Issued(token, asked.user)

    server = AuthorizationServer(
        web,
        query_client=lambda id: provider.app if id == CLIENT else None,
        save_token=save,
    )
    server.register_token_generator("default", _bound(Tokens, provider)(issuer=provider.url))
    code = [_bound(Identity, provider)(), CodeChallenge(required=True)]
    server.register_grant(_bound(Codes, provider), code)
    server.register_grant(_bound(Passwords, provider))
    server.register_grant(grants.ClientCredentialsGrant)
    server.register_grant(_bound(DeviceCodes, provider))
    server.register_endpoint(_bound(Devices, provider))
    server.register_endpoint(_bound(Introspection, provider))
    return server


@contextmanager
def openid_provider() -> Iterator[OpenIdProvider]:
    """One that listens until the end of the block."""
    server = make_server("127.0.0.1", 0, Flask("none"), threaded=True)
    provider = OpenIdProvider(f"http://127.0.0.1:{server.server_port}")
    server.app = provider.web()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
