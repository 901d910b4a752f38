"""The operator's file of trusted issuers: what it may say, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus.kernel.faults import Invalid
from pileus.kernel.world import World
from pileus.services.identity.federation.trusted import FILE, Trusted, TrustedFile, is_safe, read

GOOD = """
issuers:
  https://login.example.com:
    client_id: pileus
    client_secret: hush
    audiences: [cli]
trusted_dashboards: [https://dashboard.example.com/auth/websso/]
"""


def test_the_file_names_issuers_and_dashboards(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(GOOD)
    found = TrustedFile(World(), tmp_path).trusted
    issuer = found.issuers["https://login.example.com"]
    assert issuer.meant_for == ["pileus", "cli"] and issuer.client_secret == "hush"
    assert found.trusted_dashboards == ("https://dashboard.example.com/auth/websso/",)


def test_without_a_file_nobody_is_trusted(tmp_path: Path) -> None:
    assert TrustedFile(World(), tmp_path).trusted == Trusted()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("issuers: {x: {client_secret: hush, [}", "line 1"),
        ("issuers: {'https://x': {client_id: [hush]}}", "client_id"),
        ("issuers: {'https://x': {client_secret: hush}}", "client_id"),
        ("issuers: {'https://x': {client_id: a, secret: hush}}", "secret"),
        ("issuers: {'http://login.example.com': {client_id: a, client_secret: hush}}", "https"),
        ("issuer: {}", "issuer"),
        ("- hush", "object"),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    path = tmp_path / FILE
    path.write_text(text)
    with pytest.raises(Invalid, match=why) as told:
        read(path)
    assert "hush" not in told.value.message
    assert TrustedFile(World(), tmp_path).trusted == Trusted()
    assert "what was trusted before still is" in caplog.text and "hush" not in caplog.text


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, told: bool
) -> None:
    path = tmp_path / FILE
    path.write_text(GOOD)
    path.chmod(mode)
    assert TrustedFile(World(), tmp_path).trusted.issuers
    assert ("others than its owner can read it" in caplog.text) is told


def test_an_issuer_of_this_machine_needs_no_certificate(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for host in ("localhost:8080", "127.0.0.1", "[::1]:99"):
        path.write_text(f"issuers: {{'http://{host}/realm': {{client_id: a}}}}")
        assert list(read(path).issuers) == [f"http://{host}/realm"]


@pytest.mark.parametrize(
    ("url", "beside", "good"),
    [
        ("https://keys.example.com/k?a=b", "https://login.example.com", True),
        ("http://login.example.com/k", "https://login.example.com", False),
        ("http://127.0.0.1/latest", "https://login.example.com", False),
        ("http://127.0.0.1:99/k", "http://localhost:8080/realm", True),
        ("http://169.254.169.254/k", "http://localhost:8080/realm", False),
        ("javascript:alert(1)", "https://login.example.com", False),
        ("https:///k", "https://login.example.com", False),
        ("https://[x/k", "https://login.example.com", False),
        ("https://a.example.com/\r\nset-cookie:", "https://login.example.com", False),
    ],
)
def test_what_an_issuer_publishes_leads_to_no_unprotected_place(
    url: str, beside: str, good: bool
) -> None:
    assert is_safe(url, beside=beside) is good
