"""A small application behind keystonemiddleware's `auth_token`, asked with several tokens; run in the clients' venv.

In: the middleware's settings and the tokens by name, as JSON. Out: by token and path, what was answered.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from keystonemiddleware import auth_token
from oslo_config import cfg
from webob import Request


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Says who the middleware says is calling."""
    start("200 OK", [("Content-Type", "application/json")])
    said = {
        "user": environ["HTTP_X_USER_ID"],
        "project": environ["HTTP_X_PROJECT_ID"],
        "roles": sorted(environ["HTTP_X_ROLES"].split(",")),
    }
    return [json.dumps(said).encode()]


def main() -> None:
    asked, tokens = json.load(sys.stdin)
    service_type = asked.pop("service_type")
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[])
    settings = {
        "oslo_config_config": conf,
        "auth_type": "v3password",
        "service_type": service_type,
        "service_token_roles_required": True,
        "www_authenticate_uri": asked["auth_url"],
        **asked,
    }
    guarded = auth_token.AuthProtocol(application, settings)
    found: dict[str, dict[str, Any]] = {}
    for name, token in tokens.items():
        headers = {"X-Auth-Token": token} if token else {}
        found[name] = {}
        for path in ("/open", "/closed"):
            reply = Request.blank(path, headers=headers).get_response(guarded)
            said = json.loads(reply.body) if reply.status_int == 200 else {}
            found[name][path] = {"status": reply.status_int, **said}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
