"""Key pairs, quota sets, limits, and the old names of security groups."""

from __future__ import annotations

from pileus.services.compute.tests.scene import Scene, Stage

BASE = "/compute/v2.1"
KEY = (
    "ssh-ed25519 "
    "AAAAC3NzaC1lZDI1NTE5AAAAIJ1lKVD2Vd6oNQxxBaZ4m3bN6Z0AaWkq5EOB0eRJ9nVJ somebody@somewhere"
)


def test_a_generated_key_shows_its_private_half_once(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        made = await s.member.post(f"{BASE}/os-keypairs", {"keypair": {"name": "k1"}})
        assert made.status == 200
        keypair = made.json["keypair"]
        assert set(keypair) == {"name", "public_key", "fingerprint", "user_id", "private_key"}
        assert keypair["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")
        assert len(keypair["fingerprint"].split(":")) == 16
        shown = (await s.get("/os-keypairs/k1")).json["keypair"]
        assert "private_key" not in shown and shown["fingerprint"] == keypair["fingerprint"]
        assert (await s.get("/os-keypairs", "2.2")).json["keypairs"][0]["keypair"]["type"] == "ssh"
        again = await s.member.post(f"{BASE}/os-keypairs", {"keypair": {"name": "k1"}})
        assert again.status == 409
        new = {"openstack_api_version": "compute 2.92"}
        refused = await s.member.post(f"{BASE}/os-keypairs", {"keypair": {"name": "k2"}}, **new)
        assert refused.status == 400, "no more keys are made since 2.92"
        assert (await s.member.delete(f"{BASE}/os-keypairs/k1")).status == 202
        assert (await s.member.delete(f"{BASE}/os-keypairs/k1")).status == 404

    stage.play(story)


def test_an_imported_key_reaches_the_guest(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        body = {"keypair": {"name": "mine", "public_key": KEY}}
        made = await s.member.post(
            f"{BASE}/os-keypairs", body, openstack_api_version="compute 2.92"
        )
        assert made.status == 201 and "private_key" not in made.json["keypair"], made
        broken = {"keypair": {"name": "bad", "public_key": "ssh-rsa nonsense"}}
        assert (await s.member.post(f"{BASE}/os-keypairs", broken)).status == 400
        id = await s.boot(key_name="mine")
        assert (await s.server(id))["key_name"] == "mine"
        other = await s.other()
        assert (await other.get(f"{BASE}/os-keypairs/mine")).status == 404

    stage.play(story)


def test_somebody_elses_keys_are_an_administrators_business(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        body = {"keypair": {"name": "his", "public_key": KEY, "user_id": s.member.user_id}}
        version = {"openstack_api_version": "compute 2.10"}
        url = f"{BASE}/os-keypairs"
        assert (await (await s.other()).post(url, body, **version)).status == 403
        assert (await s.admin.post(url, body, **version)).status == 201
        query = f"?user_id={s.member.user_id}"
        assert (await (await s.other()).get(url + query, **version)).status == 403
        assert (await (await s.other()).get(f"{url}/no{query}", **version)).status == 403
        listed = (await s.admin.get(url + query, **version)).json["keypairs"]
        assert [k["keypair"]["name"] for k in listed] == ["his"]

    stage.play(story)


def test_quota_sets_are_read_by_their_project_and_set_by_administrators(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        own = s.member.project_id
        url = f"{BASE}/os-quota-sets/{own}"
        shown = (await s.member.get(url)).json["quota_set"]
        assert (shown["id"], shown["instances"], shown["ram"]) == (own, 10, 51_200)
        assert "fixed_ips" in shown
        new = (await s.get(f"/os-quota-sets/{own}", "2.57")).json["quota_set"]
        assert "fixed_ips" not in new and "injected_files" not in new
        assert (await (await s.other()).get(url)).status == 403
        change = {"quota_set": {"instances": 1, "cores": -1}}
        assert (await s.member.put(url, change)).status == 403
        put = await s.admin.put(url, change)
        assert put.status == 200 and put.json["quota_set"]["instances"] == 1
        assert "id" not in put.json["quota_set"]
        await s.boot()
        assert (await s.create()).status == 403
        detail = (await s.member.get(url + "/detail")).json["quota_set"]
        assert detail["instances"] == {"in_use": 1, "limit": 1, "reserved": 0}
        assert (await s.admin.put(url, {"quota_set": {"instances": 0}})).status == 400
        forced = {"quota_set": {"instances": 0, "force": True}}
        assert (await s.admin.put(url, forced)).status == 200
        assert (await s.admin.put(url, {"quota_set": {"apples": 1}})).status == 400
        assert (await s.admin.delete(url)).status == 202
        assert (await s.member.get(url)).json["quota_set"]["instances"] == 10
        assert (await s.member.get(url + "/defaults")).json["quota_set"]["instances"] == 10
        assert (await s.admin.get(f"{BASE}/os-quota-sets/nobody")).status == 400

    stage.play(story)


def test_limits_show_what_is_used(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        found = (await s.get("/limits")).json["limits"]
        assert found["rate"] == [] and found["absolute"]["maxTotalInstances"] == 10
        assert found["absolute"]["maxImageMeta"] == 128
        new = (await s.get("/limits", "2.57")).json["limits"]["absolute"]
        assert "maxImageMeta" not in new and "maxSecurityGroups" not in new
        foreign = f"/limits?tenant_id={s.member.project_id}"
        assert (await s.get(foreign)).status == 403
        assert (await s.get(foreign, client=s.admin)).status == 200

    stage.play(story)


def test_security_groups_by_their_old_names(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        url = f"{BASE}/os-security-groups"
        names = [g["name"] for g in (await s.member.get(url)).json["security_groups"]]
        assert names == ["default"]
        body = {"security_group": {"name": "web", "description": "d"}}
        made = await s.member.post(url, body)
        assert made.status == 200
        group = made.json["security_group"]
        assert group["rules"] == [] and group["tenant_id"] == s.member.project_id
        assert group in (await s.member.get(url)).json["security_groups"]
        rule = {
            "parent_group_id": group["id"],
            "ip_protocol": "tcp",
            "from_port": 22,
            "to_port": "22",
        }
        added = await s.member.post(
            f"{BASE}/os-security-group-rules", {"security_group_rule": rule}
        )
        assert added.status == 200, added
        view = added.json["security_group_rule"]
        assert view == rule | {
            "id": view["id"],
            "to_port": 22,
            "ip_range": {"cidr": "0.0.0.0/0"},
            "group": {},
        }
        ping = rule | {"ip_protocol": "icmp", "from_port": -1, "to_port": -1}
        added = await s.member.post(
            f"{BASE}/os-security-group-rules", {"security_group_rule": ping}
        )
        assert added.json["security_group_rule"]["from_port"] == -1
        shown = (await s.member.get(f"{url}/{group['id']}")).json["security_group"]
        assert len(shown["rules"]) == 2
        id = await s.boot()
        assert (await s.act(id, {"addSecurityGroup": {"name": "web"}})).status == 202
        groups = (await s.server(id))["security_groups"]
        assert {g["name"] for g in groups} == {"default", "web"}
        listed = (await s.get(f"/servers/{id}/os-security-groups")).json["security_groups"]
        assert {g["name"] for g in listed} == {"default", "web"}
        assert (await s.act(id, {"removeSecurityGroup": {"name": "web"}})).status == 202
        gone = f"{BASE}/os-security-group-rules/{view['id']}"
        assert (await s.member.delete(gone)).status == 202
        assert (await s.member.delete(f"{url}/{group['id']}")).status == 202
        assert (await s.member.get(f"{url}/{group['id']}")).status == 404
        assert (await s.get("/os-security-groups", "2.36")).status == 404

    stage.play(story)
