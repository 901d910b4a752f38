"""Address groups: addresses that security group rules name together (API reference: address-groups)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.quota import Quota
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Tx

from .addressing import block
from .attributes import Attributes, changes_of
from .plain import Plain
from .refusals import missing
from .resource import (
    COLUMNS,
    OWNER,
    READER,
    SHARED_WITH,
    TAGS,
    Nouns,
    Shared,
    hold,
    kept_by,
    listing,
    standard,
)
from .security_group import RULES
from .wiring import hosts_of_groups, wake

_FIXED = frozenset({"id", "shared", "created_at", "updated_at", "revision_number", "tags"})


class AddressGroup(Shared, kw_only=True, frozen=True):
    addresses: list[str] = []


ADDRESS_GROUPS = Nouns[AddressGroup](
    "network_address_groups",
    AddressGroup,
    columns=(*COLUMNS, "shared"),
    many=(TAGS, SHARED_WITH),
    quotas=(Quota("network", "address_group", default=-1),),
    indexes=(("project_id", "created_at", "id"),),
    noun="Address group",
).worded("AddressGroupNotFound", "Address group {id} could not be found.")


class CreateAddressGroup(Attributes):
    root: ClassVar[str] = "address_group"
    plural: ClassVar[str] = "address_groups"
    fixed = _FIXED

    name: str = ""
    description: str = ""
    addresses: list[str] = []
    project_id: str | UnsetType = UNSET


class GroupAddresses(Attributes):
    root: ClassVar[str] = ""
    creates = False

    addresses: list[str]


class AddressGroups(
    Plain[AddressGroup],
    path="/address-groups",
    create=CreateAddressGroup,
    update=changes_of(CreateAddressGroup, "addresses"),
):
    table = ADDRESS_GROUPS
    noun = "address_group"
    plural = "address_groups"
    id_param = "address_group_id"
    see = "get_address_group"
    share_type = "address_group"
    rules = kept_by(OWNER, "address_group", readers=f"{READER} or rule:shared_address_groups")
    listing = listing(shared=Filter(kind=bool))

    def view(self, ctx: Context, record: AddressGroup) -> dict[str, Any]:
        shared = record.is_shared_to(ctx.caller.project_id)
        return standard(record) | {"addresses": record.addresses, "shared": shared}

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: AddressGroup | None
    ) -> dict[str, Any]:
        if old is None:
            given["addresses"] = list(dict.fromkeys(_spelt(given.get("addresses", []))))
        return given

    async def leave(self, tx: Tx, record: AddressGroup) -> None:
        await hold(tx, self.plural, record.id)
        if await RULES.one(tx, remote_address_group_id=record.id) is not None:
            raise Conflict(
                f"Address group {record.id} is in use on one or more security group rules.",
                code="AddressGroupInUse",
            )

    @operation("PUT", "/address-groups/{address_group_id}/add_addresses", "update_address_group")
    async def add(self, ctx: Context, group: AddressGroup, body: GroupAddresses) -> Any:
        new = _spelt(body.addresses)
        if known := [a for a in new if a in group.addresses]:
            raise Invalid(
                f"Addresses {known} already exist in the address group {group.id}.",
                code="AddressesAlreadyExist",
            )
        return await self._put(ctx, group, [*group.addresses, *dict.fromkeys(new)])

    @operation("PUT", "/address-groups/{address_group_id}/remove_addresses", "update_address_group")
    async def remove(self, ctx: Context, group: AddressGroup, body: GroupAddresses) -> Any:
        gone = _spelt(body.addresses)
        if unknown := [a for a in gone if a not in group.addresses]:
            raise missing(
                "AddressesNotFound",
                f"Addresses {unknown} not found in the address group {group.id}.",
            )
        return await self._put(ctx, group, [a for a in group.addresses if a not in gone])

    async def _put(self, ctx: Context, group: AddressGroup, addresses: list[str]) -> Any:
        async with ctx.runtime.store.tx() as tx:
            group = await ADDRESS_GROUPS.revise(tx, group, addresses=addresses)
        store = ctx.runtime.store
        naming = await RULES.all(store, remote_address_group_id=group.id)
        await wake(ctx.runtime, await hosts_of_groups(store, {r.security_group_id for r in naming}))
        return await self.one(ctx, group)


def _spelt(addresses: Sequence[str]) -> list[str]:
    """Each as a prefix. Raises Invalid."""
    return [str(block(a, "addresses")) for a in addresses]
