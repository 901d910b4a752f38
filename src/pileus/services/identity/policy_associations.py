"""Which policy is for which endpoints (OS-ENDPOINT-POLICY): for one, for a service's, or for a service's in a region.

https://docs.openstack.org/api-ref/identity/v3-ext/#os-endpoint-policy-api
"""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Reader, Record, Tx

from . import endpoints, policies
from .catalog import ENDPOINTS, REGIONS, SERVICES, Endpoint
from .policies import POLICIES, Policy
from .wire import ADMIN_OR_SYSTEM_READER, Noun, NounTable, drop_all, dropping, listed

_BASE = "/policies/{policy_id}/OS-ENDPOINT-POLICY"
_ENDPOINT = _BASE + "/endpoints/{endpoint_id}"
_SERVICE = _BASE + "/services/{service_id}"
_REGION = _SERVICE + "/regions/{region_id}"


class PolicyAssociation(Record, kw_only=True, frozen=True):
    """The id says what the policy is for, so that there is one policy for it."""

    policy_id: str
    endpoint_id: str = ""
    service_id: str = ""
    region_id: str = ""


POLICY_ASSOCIATIONS = NounTable(
    "identity_policy_associations",
    PolicyAssociation,
    columns=("policy_id", "endpoint_id", "service_id", "region_id"),
    indexes=(("policy_id",),),
    noun="policy association",
)


def _id(endpoint_id: str = "", service_id: str = "", region_id: str = "") -> str:
    return f"endpoint:{endpoint_id}" if endpoint_id else f"service:{service_id}:{region_id}"


class PolicyAssociations(Noun[Policy]):
    table = POLICIES
    id_param = "policy_id"
    follows = {
        kind: dropping(POLICY_ASSOCIATIONS, f"{kind}_id")
        for kind in ("policy", "endpoint", "service", "region")
    }
    rules = {
        "identity:get_policy_for_endpoint": ADMIN_OR_SYSTEM_READER,
        "identity:list_endpoints_for_policy": ADMIN_OR_SYSTEM_READER,
        **{
            f"identity:{verb}_policy_association_for_{what}": rule
            for what in ("endpoint", "service", "region_and_service")
            for verb, rule in (
                ("create", "rule:admin_required"),
                ("check", ADMIN_OR_SYSTEM_READER),
                ("delete", "rule:admin_required"),
            )
        },
    }
    scopes = {name: ("system", "project") for name in rules}

    @operation("GET", _BASE + "/endpoints", "identity:list_endpoints_for_policy")
    async def endpoints(self, ctx: Context, policy: Policy) -> dict[str, Any]:
        store = ctx.runtime.store
        found: dict[str, Endpoint] = {}
        for one in await POLICY_ASSOCIATIONS.all(store, policy_id=policy.id):
            found.update((e.id, e) for e in await _endpoints_of(store, one))
        return listed(ctx, "endpoints", [endpoints.view(ctx, e) for e in found.values()])

    @operation(
        "GET",
        "/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy",
        "identity:get_policy_for_endpoint",
    )
    async def of_endpoint(self, ctx: Context, endpoint_id: str) -> dict[str, Any]:
        store = ctx.runtime.store
        endpoint = await ENDPOINTS.get(store, endpoint_id)
        for id in await _ids_for(store, endpoint):
            one = await POLICY_ASSOCIATIONS.find(store, id)
            if one is not None:
                policy = await POLICIES.get(store, one.policy_id)
                return {"policy": policies.view(ctx, policy)}
        raise NotFound(f"No policy is associated with endpoint {endpoint_id}.")

    @operation("GET", _ENDPOINT, "identity:check_policy_association_for_endpoint")
    async def check_endpoint(self, ctx: Context, policy: Policy, endpoint_id: str) -> None:
        await ENDPOINTS.get(ctx.runtime.store, endpoint_id)
        await _check(ctx, policy, _id(endpoint_id))

    @operation("PUT", _ENDPOINT, "identity:create_policy_association_for_endpoint")
    async def put_endpoint(self, ctx: Context, policy: Policy, endpoint_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await ENDPOINTS.get(tx, endpoint_id)
            await _put(tx, policy, endpoint_id=endpoint_id)

    @operation("DELETE", _ENDPOINT, "identity:delete_policy_association_for_endpoint")
    async def delete_endpoint(self, ctx: Context, policy: Policy, endpoint_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await ENDPOINTS.get(tx, endpoint_id)
            await drop_all(tx, POLICY_ASSOCIATIONS, policy_id=policy.id, id=_id(endpoint_id))

    @operation("GET", _SERVICE, "identity:check_policy_association_for_service")
    async def check_service(self, ctx: Context, policy: Policy, service_id: str) -> None:
        await SERVICES.get(ctx.runtime.store, service_id)
        await _check(ctx, policy, _id("", service_id))

    @operation("PUT", _SERVICE, "identity:create_policy_association_for_service")
    async def put_service(self, ctx: Context, policy: Policy, service_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await SERVICES.get(tx, service_id)
            await _put(tx, policy, service_id=service_id)

    @operation("DELETE", _SERVICE, "identity:delete_policy_association_for_service")
    async def delete_service(self, ctx: Context, policy: Policy, service_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await SERVICES.get(tx, service_id)
            await drop_all(tx, POLICY_ASSOCIATIONS, policy_id=policy.id, id=_id("", service_id))

    @operation("GET", _REGION, "identity:check_policy_association_for_region_and_service")
    async def check_region(
        self, ctx: Context, policy: Policy, service_id: str, region_id: str
    ) -> None:
        await _places(ctx.runtime.store, service_id, region_id)
        await _check(ctx, policy, _id("", service_id, region_id))

    @operation("PUT", _REGION, "identity:create_policy_association_for_region_and_service")
    async def put_region(
        self, ctx: Context, policy: Policy, service_id: str, region_id: str
    ) -> None:
        async with ctx.runtime.store.tx() as tx:
            await _places(tx, service_id, region_id)
            await _put(tx, policy, service_id=service_id, region_id=region_id)

    @operation("DELETE", _REGION, "identity:delete_policy_association_for_region_and_service")
    async def delete_region(
        self, ctx: Context, policy: Policy, service_id: str, region_id: str
    ) -> None:
        async with ctx.runtime.store.tx() as tx:
            await _places(tx, service_id, region_id)
            id = _id("", service_id, region_id)
            await drop_all(tx, POLICY_ASSOCIATIONS, policy_id=policy.id, id=id)


async def _places(db: Reader, service_id: str, region_id: str) -> None:
    await SERVICES.get(db, service_id)
    await REGIONS.get(db, region_id)


async def _check(ctx: Context, policy: Policy, id: str) -> None:
    known = await POLICY_ASSOCIATIONS.find(ctx.runtime.store, id)
    if known is None or known.policy_id != policy.id:
        raise NotFound("Could not find policy association.")


async def _put(
    tx: Tx, policy: Policy, endpoint_id: str = "", service_id: str = "", region_id: str = ""
) -> None:
    """The policy takes the place of another for the same thing."""
    wanted = PolicyAssociation(
        id=_id(endpoint_id, service_id, region_id),
        policy_id=policy.id,
        endpoint_id=endpoint_id,
        service_id=service_id,
        region_id=region_id,
    )
    known = await POLICY_ASSOCIATIONS.find(tx, wanted.id)
    if known is None:
        await POLICY_ASSOCIATIONS.insert(tx, wanted)
    else:
        await POLICY_ASSOCIATIONS.change(tx, known, policy_id=policy.id)


async def _ids_for(db: Reader, endpoint: Endpoint) -> list[str]:
    """What can say which policy an endpoint has, the nearest first: itself, its region and those above, its service."""
    ids = [_id(endpoint.id)]
    at = endpoint.region_id
    while at:
        ids.append(_id("", endpoint.service_id, at))
        region = await REGIONS.find(db, at)
        at = region.parent_region_id if region is not None else ""
    return [*ids, _id("", endpoint.service_id)]


async def _endpoints_of(db: Reader, one: PolicyAssociation) -> list[Endpoint]:
    if one.endpoint_id:
        found = await ENDPOINTS.find(db, one.endpoint_id)
        return [found] if found is not None else []
    if not one.region_id:
        return await ENDPOINTS.all(db, service_id=one.service_id)
    regions = [one.region_id]
    for region_id in regions:
        regions += [r.id for r in await REGIONS.all(db, parent_region_id=region_id)]
    return await ENDPOINTS.all(db, service_id=one.service_id, region_id=regions)
