"""Address scopes: between subnet pools of one, addresses are routed as they are (API reference: address-scopes)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Tx

from .attributes import Attributes, changes_of
from .plain import Plain
from .resource import ADMIN, OWNER, SHARED_WITH, Nouns, Shared, hold, kept_by, listing
from .subnetpool import SUBNETPOOLS

_FIXED = frozenset({"id"})


class AddressScope(Shared, kw_only=True, frozen=True):
    ip_version: int


ADDRESS_SCOPES = Nouns[AddressScope](
    "network_address_scopes",
    AddressScope,
    columns=("project_id", "name", "description", "revision_number", "ip_version", "shared"),
    many=(SHARED_WITH,),
    indexes=(("project_id", "created_at", "id"),),
    noun="Address scope",
).worded("AddressScopeNotFound", "Address scope {id} could not be found.")


class CreateAddressScope(Attributes):
    root: ClassVar[str] = "address_scope"
    plural: ClassVar[str] = "address_scopes"
    fixed = _FIXED
    defaults = {"shared": False}

    name: str
    ip_version: int
    shared: bool = False
    project_id: str | UnsetType = UNSET


class AddressScopes(
    Plain[AddressScope],
    path="/address-scopes",
    create=CreateAddressScope,
    update=changes_of(CreateAddressScope, "ip_version"),
):
    table = ADDRESS_SCOPES
    noun = "address_scope"
    plural = "address_scopes"
    id_param = "address_scope_id"
    see = "get_address_scope"
    share_type = "address_scope"
    rules = kept_by(
        OWNER,
        "address_scope",
        readers="rule:admin_only or role:reader and project_id:%(project_id)s or "
        "rule:shared_address_scopes",
    ) | {"create_address_scope:shared": ADMIN, "update_address_scope:shared": ADMIN}
    listing = listing((), False, ip_version=Filter(kind=int), shared=Filter(kind=bool))

    def view(self, ctx: Context, record: AddressScope) -> dict[str, Any]:
        return {
            "id": record.id,
            "name": record.name,
            "project_id": record.project_id,
            "tenant_id": record.project_id,
            "ip_version": record.ip_version,
            "shared": record.is_shared_to(ctx.caller.project_id),
        }

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: AddressScope | None
    ) -> dict[str, Any]:
        if old is None and given["ip_version"] not in (4, 6):
            raise Invalid(
                f"Invalid input for ip_version. Reason: '{given['ip_version']}' is not in [4, 6]."
            )
        if old is not None and old.shared and given.get("shared") is False:
            raise Invalid(
                f"Unable to update address scope {old.id} : Shared address scope can't be unshared.",
                code="AddressScopeUpdateError",
            )
        return given

    async def leave(self, tx: Tx, record: AddressScope) -> None:
        await hold(tx, self.plural, record.id)
        if await SUBNETPOOLS.one(tx, address_scope_id=record.id) is not None:
            raise Conflict(
                f"Unable to complete operation on address scope {record.id}. There are one or "
                "more subnet pools in use on the address scope.",
                code="AddressScopeInUse",
            )
