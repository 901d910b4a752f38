"""What a subnet pool is: prefixes from which subnets are cut."""

from __future__ import annotations

from pileus.kernel.quota import Quota

from .addressing import Block, block
from .resource import COLUMNS, SHARED_WITH, TAGS, Nouns, Shared


class SubnetPool(Shared, kw_only=True, frozen=True):
    """`default_quota`: how many addresses (IPv6: /64s) a project may have of it; -1 is no limit."""

    prefixes: list[str]
    ip_version: int
    min_prefixlen: int
    max_prefixlen: int
    default_prefixlen: int
    default_quota: int = -1
    is_default: bool = False
    address_scope_id: str = ""

    @property
    def blocks(self) -> list[Block]:
        return [block(p) for p in self.prefixes]


SUBNETPOOLS = Nouns[SubnetPool](
    "network_subnetpools",
    SubnetPool,
    columns=(
        *COLUMNS,
        "ip_version",
        "shared",
        "is_default",
        "address_scope_id",
        "min_prefixlen",
        "max_prefixlen",
        "default_prefixlen",
        "default_quota",
    ),
    many=(TAGS, SHARED_WITH),
    quotas=(Quota("network", "subnetpool", default=-1),),
    indexes=(("project_id", "created_at", "id"), ("address_scope_id",)),
    noun="Subnet pool",
).worded("SubnetPoolNotFound", "Subnet pool {id} could not be found.")
