"""OS-REVOKE, and what is gone for good."""

from __future__ import annotations

from pileus.services.identity.tests.clouds import Identity, alone


@alone
async def test_a_revoked_token_is_an_event_for_services_that_check_themselves(i: Identity) -> None:
    project = await i.project("p")
    member = await i.who("m", "member", f"projects/{project}")
    audit = (await member.get("/auth/tokens", x_subject_token=member.token)).json["token"]
    assert (await member.delete("/auth/tokens", x_subject_token=member.token)).status == 204
    answer = (await i.admin.get("/OS-REVOKE/events")).json
    events = [e for e in answer["events"] if e.get("audit_id") == audit["audit_ids"][0]]
    assert len(events) == 1 and events[0]["issued_before"].endswith("Z")
    assert answer["links"]["self"].endswith("/v3/OS-REVOKE/events")
    for since, there in (("2000-01-01T00:00:00Z", True), ("2999-01-01T00:00:00.000000Z", False)):
        found = (await i.admin.get(f"/OS-REVOKE/events?since={since}")).json["events"]
        assert bool(found) == there, since
    assert (await i.admin.get("/OS-REVOKE/events?since=yesterday")).status == 400


@alone
async def test_services_and_administrators_read_the_events_and_others_do_not(i: Identity) -> None:
    project = await i.project("p")
    for role, status in (("service", 200), ("manager", 403), ("reader", 403)):
        who = await i.who(role, role, f"projects/{project}")
        assert (await who.get("/OS-REVOKE/events")).status == status, role


@alone
async def test_a_deleted_project_is_an_event(i: Identity) -> None:
    project = await i.project("p")
    await i.admin.delete(f"/projects/{project}")
    events = (await i.admin.get("/OS-REVOKE/events")).json["events"]
    assert project in [e.get("project_id") for e in events]


@alone
async def test_certificates_of_pki_tokens_are_gone(i: Identity) -> None:
    for path in ("/OS-SIMPLE-CERT/ca", "/OS-SIMPLE-CERT/certificates"):
        reply = await i.anybody.get(path)
        assert reply.status == 410 and reply.json["error"]["title"] == "Gone"
        assert (await i.anybody.head(path)).status == 410
    assert (await i.anybody.get("/auth/tokens/OS-PKI/revoked")).status == 403
