"""Which policy is for which endpoints (OS-ENDPOINT-POLICY): for one, for a service's, or for a service's in a region.

https://docs.openstack.org/api-ref/identity/v3-ext/#os-endpoint-policy-api
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, Operation, operation
from pileus.kernel.store import Reader, Record, Table

from .catalog import ENDPOINTS, REGIONS, SERVICES, Endpoint
from .endpoints import Endpoints
from .kept import answered_by
from .policies import POLICIES, Policies, Policy
from .wire import ADMIN_OR_SYSTEM_READER, Noun, NounTable, drop_all, dropping, listed

_BASE = "/policies/{policy_id}/OS-ENDPOINT-POLICY"
_FOR = {
    "endpoint": "/endpoints/{endpoint_id}",
    "service": "/services/{service_id}",
    "region_and_service": "/services/{service_id}/regions/{region_id}",
}
_PLACES: Mapping[str, Table[Any]] = {
    "endpoint_id": ENDPOINTS,
    "service_id": SERVICES,
    "region_id": REGIONS,
}


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


def _rule(verb: str, what: str) -> str:
    return f"identity:{verb}_policy_association_for_{what}"


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
        **{_rule("check", what): ADMIN_OR_SYSTEM_READER for what in _FOR},
        **{
            _rule(verb, what): "rule:admin_required"
            for what in _FOR
            for verb in ("create", "delete")
        },
    }
    scopes = {name: ("system", "project") for name in rules}

    def operations(self) -> Iterator[Operation]:
        yield from super().operations()
        ways = (
            ("GET", "check", self.check),
            ("PUT", "create", self.create),
            ("DELETE", "delete", self.delete),
        )
        for what, path in _FOR.items():
            for method, verb, call in ways:
                rule, loads = _rule(verb, what), (self.id_param, "policy")
                yield answered_by(call, method, _BASE + path, rule, loads=loads)

    @operation("GET", _BASE + "/endpoints", "identity:list_endpoints_for_policy")
    async def endpoints(self, ctx: Context, policy: Policy) -> dict[str, Any]:
        store = ctx.runtime.store
        found: dict[str, Endpoint] = {}
        for one in await POLICY_ASSOCIATIONS.all(store, policy_id=policy.id):
            found.update((e.id, e) for e in await _endpoints_of(store, one))
        return listed(ctx, "endpoints", [Endpoints.view(ctx, e) for e in found.values()])

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
                return {"policy": Policies.view(ctx, policy)}
        raise NotFound(f"No policy is associated with endpoint {endpoint_id}.")

    async def check(self, ctx: Context, policy: Policy, **places: str) -> None:
        known = await POLICY_ASSOCIATIONS.find(
            ctx.runtime.store, await _id_of(ctx.runtime.store, places)
        )
        if known is None or known.policy_id != policy.id:
            raise NotFound("Could not find policy association.")

    async def create(self, ctx: Context, policy: Policy, **places: str) -> None:
        """The policy takes the place of another for the same thing."""
        async with ctx.runtime.store.tx() as tx:
            id = await _id_of(tx, places)
            known = await POLICY_ASSOCIATIONS.find(tx, id)
            if known is not None:
                await POLICY_ASSOCIATIONS.change(tx, known, policy_id=policy.id)
            else:
                wanted: dict[str, Any] = {**places, "id": id, "policy_id": policy.id}
                await POLICY_ASSOCIATIONS.insert(tx, PolicyAssociation(**wanted))

    async def delete(self, ctx: Context, policy: Policy, **places: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            id = await _id_of(tx, places)
            await drop_all(tx, POLICY_ASSOCIATIONS, policy_id=policy.id, id=id)


async def _id_of(db: Reader, places: Mapping[str, str]) -> str:
    """The id of the association with these places, all of which must be there. Raises NotFound."""
    for name, id in places.items():
        await _PLACES[name].get(db, id)
    return _id(**places)


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
