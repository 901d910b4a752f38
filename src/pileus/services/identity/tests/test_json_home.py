"""JSON Home against upstream's own, which `json_home.tsv` holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus.services.identity import SERVICE
from pileus.services.identity.json_home import home

ROOT = "https://docs.openstack.org/api/openstack-identity/3/"
LINES = (Path(__file__).parent / "json_home.tsv").read_text().splitlines()[1:]
UPSTREAM = [tuple(line.split("\t")) for line in LINES]
OURS = home(
    [
        op.path.removeprefix(SERVICE.prefix + SERVICE.api)
        for resource, op in SERVICE.operations()
        if resource.api is None
    ],
    "",
)["resources"]
SAML = {f"ext/OS-FEDERATION/1.0/rel/{name}" for name in ("ecp", "metadata", "saml2")}  # not served


@pytest.mark.parametrize(("relation", "path", "names", "status"), UPSTREAM)
def test_upstreams_name_leads_to_upstreams_path(
    relation: str, path: str, names: str, status: str
) -> None:
    if relation in SAML and ROOT + relation not in OURS:
        return
    variables = dict(n.split("=") for n in names.split(";") if n)
    expected = {
        "href-template" if variables else "href": path,
        **({"href-vars": {n: ROOT + v for n, v in variables.items()}} if variables else {}),
        **({"hints": {"status": status}} if status else {}),
    }
    assert OURS[ROOT + relation] == expected


def test_no_two_paths_have_one_name() -> None:
    paths = [v.get("href") or v["href-template"] for v in OURS.values()]
    twice = {p for p in paths if paths.count(p) > 1}
    assert twice == {"/auth/domains", "/auth/projects"}
