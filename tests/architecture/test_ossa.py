"""Published advisories whose flaw is a thing that must not stand in the code at all."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pileus.kernel.resources import PUBLIC
from pileus.node.control import find_services
from tests.architecture.sources import Source, dotted, sources

OURS = [source for source in sources() if not source.is_test]
XML = {"xml", "lxml", "defusedxml", "xmltodict", "pyexpat"}
SHELLS = {"os.system", "os.popen", "asyncio.create_subprocess_shell", "subprocess.getoutput"}
CODE = {"eval", "exec", "pickle.loads", "pickle.load", "marshal.loads", "yaml.load"}
# Version documents, logging in, and what bears a secret of its own: a ticket, a signature, or the password that it changes.
ANYBODY = {
    "GET /compute",
    "GET /compute/v2",
    "GET /compute/v2.1",
    "GET /identity",
    "GET /identity/v3",
    "GET /identity/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth",
    "GET /identity/v3/OS-SIMPLE-CERT/ca",
    "GET /identity/v3/OS-SIMPLE-CERT/certificates",
    "GET /identity/v3/auth/tokens/OS-PKI/revoked",
    "GET /identity/v3/auth/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/websso",
    "GET /identity/v3/auth/OS-FEDERATION/redirect_uri",
    "GET /identity/v3/auth/OS-FEDERATION/websso/{protocol_id}",
    "GET /image",
    "GET /image/tickets/{ticket}",
    "PUT /image/tickets/{ticket}",  # sealed for one image, and only until it has bytes
    "GET /image/versions",
    "GET /network",
    "GET /network/v2.0",
    "GET /placement",
    "GET /volume",
    "GET /volume/v3",
    "GET /volume/tickets/{ticket}",
    "PUT /volume/tickets/{ticket}",  # sealed for one file, and for an hour
    "POST /identity/v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth",
    "POST /identity/v3/OS-OAUTH1/access_token",
    "POST /identity/v3/OS-OAUTH1/request_token",
    "POST /identity/v3/OS-OAUTH2/token",
    "POST /identity/v3/auth/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/websso",
    "POST /identity/v3/auth/OS-FEDERATION/websso/{protocol_id}",
    "POST /identity/v3/auth/tokens",
    "POST /identity/v3/users/{user_id}/password",
}


def imported(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.Import):
            yield from (a.name.partition(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def calls(source: Source) -> Iterator[tuple[str, ast.Call]]:
    for node in source.nodes:
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def test_ossa_2013_004_and_023_nothing_here_reads_xml() -> None:
    assert [s.name for s in OURS if XML & set(imported(s))] == []


def test_ossa_2014_012_no_string_reaches_a_shell_or_is_run_as_code() -> None:
    found = []
    for source in OURS:
        for name, call in calls(source):
            shell = any(k.arg == "shell" for k in call.keywords)
            if name in SHELLS | CODE or shell:
                found.append(f"{source.name}:{call.lineno}: {name}")
    assert found == []


def test_ossa_2014_024_whoever_signs_compares_in_constant_time() -> None:
    signers = [s for s in OURS if "hmac" in imported(s)]
    assert signers
    for source in signers:
        assert "hmac.compare_digest" in [name for name, _ in calls(source)], source.name
        equals = [
            ast.unparse(node)
            for node in source.nodes
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq)
            if "sign" in ast.unparse(node) or "digest" in ast.unparse(node)
        ]
        assert equals == [], source.name


def test_ossa_2024_003_one_module_lets_qemu_img_read_what_a_tenant_sent() -> None:
    """Others make disks, or copy what we made: a guest writes its disk's sectors, never its header."""
    found = {s.name for s in OURS for name, call in converts(s)}
    ours = {"host/testimage.py", *DISKS}
    assert found == {"host/image_cache.py"} | ours


DISKS = {f"services/compute/drivers/guest_{name}.py" for name in ("snapshots", "sizes")}
DISKS |= {f"services/block_storage/drivers/{name}.py" for name in ("file/layers", "rbd/driver")}


def converts(source: Source) -> Iterator[tuple[str, ast.List]]:
    for node in source.nodes:
        if isinstance(node, ast.List) and node.elts:
            words = [e.value for e in node.elts if isinstance(e, ast.Constant)]
            if words[:1] == ["qemu-img"] and words[1:2] != ["create"]:
                yield source.name, node


def test_ossa_2014_011_only_these_operations_ask_nobody() -> None:
    asks_nobody = {
        f"{op.method} {op.path}"
        for service in find_services()
        for _, op in service.operations()
        if op.rule == PUBLIC
    }
    assert asks_nobody == ANYBODY
