"""What clients that follow JSON Home (draft-nottingham-json-home) find this service's paths by: names given by upstream.

Most follow from the path: `/projects/{project_id}/users/{user_id}/roles` is `project_user_roles`, below the name of
the extension if one stands in the path. NAMED are those that do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_REL = "https://docs.openstack.org/api/openstack-identity/3"
_PLACES = re.compile(r"/(\w+)/{(?:target|actor)_id}")  # grants name both alike
_EXPERIMENTAL = re.compile(r"/(registered_)?limits\b")
_EP_FILTER = "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}"
_POLICY = "/policies/{policy_id}/OS-ENDPOINT-POLICY"
_FEDERATED = "/auth/OS-FEDERATION"
_LOGIN = "/identity_providers/{idp_id}/protocols/{protocol_id}"
_USER = "/users/{user_id}"
NAMED = {
    "/ec2tokens": "ext/OS-EC2/1.0/rel/ec2tokens",
    "/s3tokens": "ext/s3tokens/1.0/rel/s3tokens",
    f"{_POLICY}/endpoints/{{endpoint_id}}": (
        "ext/OS-ENDPOINT-POLICY/1.0/rel/endpoint_policy_association"
    ),
    f"{_POLICY}/services/{{service_id}}": (
        "ext/OS-ENDPOINT-POLICY/1.0/rel/service_policy_association"
    ),
    f"{_POLICY}/services/{{service_id}}/regions/{{region_id}}": (
        "ext/OS-ENDPOINT-POLICY/1.0/rel/region_and_service_policy_association"
    ),
    f"{_EP_FILTER}/projects/{{project_id}}": (
        "ext/OS-EP-FILTER/1.0/rel/endpoint_group_to_project_association"
    ),
    f"{_EP_FILTER}/endpoints": "ext/OS-EP-FILTER/1.0/rel/endpoints_in_endpoint_group",
    f"{_EP_FILTER}/projects": "ext/OS-EP-FILTER/1.0/rel/projects_associated_with_endpoint_group",
    f"{_FEDERATED}/websso/{{protocol_id}}": "ext/OS-FEDERATION/1.0/rel/websso",
    f"{_FEDERATED}{_LOGIN}/websso": "ext/OS-FEDERATION/1.0/rel/identity_providers_websso",
    "/OS-FEDERATION/domains": "",  # their names lead to /auth
    "/OS-FEDERATION/projects": "",
    "/OS-OAUTH1/access_token": "ext/OS-OAUTH1/1.0/rel/access_tokens",
    "/OS-OAUTH1/authorize/{request_token_id}": "ext/OS-OAUTH1/1.0/rel/authorize_request_token",
    "/OS-OAUTH1/request_token": "ext/OS-OAUTH1/1.0/rel/request_tokens",
    "/auth/tokens/OS-PKI/revoked": "ext/OS-PKI/1.0/rel/revocations",
    "/OS-SIMPLE-CERT/ca": "ext/OS-SIMPLE-CERT/1.0/rel/ca_certificate",
    f"{_USER}/access_rules": "rel/access_rules",
    f"{_USER}/access_rules/{{access_rule_id}}": "rel/access_rule",
    f"{_USER}/application_credentials": "rel/application_credentials",
    f"{_USER}/application_credentials/{{application_credential_id}}": "rel/application_credential",
    f"{_USER}/password": "rel/user_change_password",
    "/domains/config/default": "rel/domain_config_default",
    "/domains/config/{group}/default": "rel/domain_config_default_group",
    "/domains/config/{group}/{option}/default": "rel/domain_config_default_option",
    "/domains/{domain_id}/config/{group}": "rel/domain_config_group",
    "/domains/{domain_id}/config/{group}/{option}": "rel/domain_config_option",
    "/roles/{prior_role_id}/implies": "rel/implied_roles",
    "/roles/{prior_role_id}/implies/{implied_role_id}": "rel/implied_role",
    "/limits/model": "rel/limit_model",
    "/projects/{project_id}/tags/{value}": "rel/project_tags",
}
_ALSO = {  # federation's old names
    "/auth/domains": "ext/OS-FEDERATION/1.0/rel/domains",
    "/auth/projects": "ext/OS-FEDERATION/1.0/rel/projects",
}
_PARAMS = {
    "prior_role_id": "role_id",
    "implied_role_id": "role_id",
    "group": "config_group",
    "option": "config_option",
    "value": "tag_value",
}
_OF_EXTENSION = frozenset(
    (
        "endpoint_group_id",
        "idp_id",
        "protocol_id",
        "mapping_id",
        "service_provider_id",
        "request_token_id",
        "consumer_id",
        "access_token_id",
        "trust_id",
    )
)


def home(paths: Iterable[str], under: str) -> dict[str, Any]:
    """The document for these paths below the versioned root; `under` is what stands before each of them."""
    found: dict[str, Any] = {}
    for path in dict.fromkeys(_PLACES.sub(_spelled, p) for p in paths):
        entry = _entry(path, under)
        for relation in (relation_of(path), _ALSO.get(path)):
            if relation:
                found.setdefault(f"{_REL}/{relation}", entry)
    return {"resources": found}


def _spelled(match: re.Match[str]) -> str:
    return f"/{match[1]}/{{{_single(match[1])}_id}}"


def _entry(path: str, under: str) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", path)
    entry: dict[str, Any] = {"href-template" if names else "href": under + path}
    if names:
        extension = _extension(path)
        entry["href-vars"] = {n: f"{_REL}/{_param(n, extension)}" for n in names}
    if _EXPERIMENTAL.match(path):
        entry["hints"] = {"status": "experimental"}
    return entry


def _param(name: str, extension: str) -> str:
    owner = f"ext/{extension}/1.0/" if extension and name in _OF_EXTENSION else ""
    return f"{owner}param/{_PARAMS.get(name, name)}"


def _extension(path: str) -> str:
    return next((p for p in path.split("/") if p.startswith("OS-")), "")


def relation_of(path: str) -> str:
    """The name of a path, "" for none."""
    if path in NAMED:
        return NAMED[path]
    extension = _extension(path)
    parts = [p for p in path.split("/") if p and p != extension]
    words = []
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if not part.startswith("{"):
            words.append(_single(part) if following.startswith("{") else part)
    return f"{f'ext/{extension}/1.0/' if extension else ''}rel/{'_'.join(words)}"


def _single(noun: str) -> str:
    return "policy" if noun == "policies" else noun.removesuffix("s")
