"""Metering labels: what passes a project's routers to and from the outside is counted (API reference: metering).

Hosts count in nftables and tell what was added; each time it becomes an event `l3.meter`, as Ceilometer reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Page, Tx

from .attributes import Attributes
from .plain import Plain
from .resource import COLUMNS, MANAGER, READER, Noun, Nouns, hold, kept_by, listing
from .router import ROUTERS
from .wiring import Traffic, wake

_DIRECTIONS = ("ingress", "egress")
_PREFIXES = ("remote_ip_prefix", "source_ip_prefix", "destination_ip_prefix")


class MeteringLabel(Noun, kw_only=True, frozen=True):
    """`shared`: of all routers, not of its project's alone."""

    shared: bool = False


class MeteringRule(Noun, kw_only=True, frozen=True):
    """`remote_ip_prefix` is what upstream makes of it: the inner side, of either direction."""

    metering_label_id: str
    direction: str
    excluded: bool = False
    remote_ip_prefix: str = ""
    source_ip_prefix: str = ""
    destination_ip_prefix: str = ""

    @property
    def ends(self) -> tuple[str, str]:
        """The source and the destination that count; "" is any."""
        is_out = self.direction == "egress"
        inner = (self.remote_ip_prefix, "") if is_out else ("", self.remote_ip_prefix)
        return (self.source_ip_prefix or inner[0], self.destination_ip_prefix or inner[1])


LABELS = Nouns[MeteringLabel](
    "network_metering_labels",
    MeteringLabel,
    columns=(*COLUMNS, "shared"),
    indexes=(("project_id", "created_at", "id"),),
    noun="Metering label",
).worded("MeteringLabelNotFound", "Metering label '{id}' does not exist.")
METERING_RULES = Nouns[MeteringRule](
    "network_metering_rules",
    MeteringRule,
    columns=(*COLUMNS, "metering_label_id", "direction", "excluded", *_PREFIXES),
    indexes=(("metering_label_id",), ("project_id", "created_at", "id")),
    noun="Metering label rule",
).worded("MeteringLabelRuleNotFound", "Metering label rule '{id}' does not exist.")


class CreateLabel(Attributes):
    root: ClassVar[str] = "metering_label"
    plural: ClassVar[str] = "metering_labels"
    fixed = frozenset({"id"})

    name: str = ""
    description: str = ""
    shared: bool = False
    project_id: str | UnsetType = UNSET


class CreateRule(Attributes):
    root: ClassVar[str] = "metering_label_rule"
    plural: ClassVar[str] = "metering_label_rules"
    fixed = frozenset({"id"})

    metering_label_id: str
    direction: str
    excluded: bool = False
    remote_ip_prefix: str | None = None
    source_ip_prefix: str | None = None
    destination_ip_prefix: str | None = None
    project_id: str | UnsetType = UNSET


class MeteringLabels(Plain[MeteringLabel], path="/metering/metering-labels", create=CreateLabel):
    table = LABELS
    noun = "metering_label"
    plural = "metering_labels"
    id_param = "metering_label_id"
    see = "get_metering_label"
    rules = kept_by(MANAGER, noun, updated=False)
    listing = listing((), False, shared=Filter(kind=bool))

    def view(self, ctx: Context, record: MeteringLabel) -> dict[str, Any]:
        shown = {n: getattr(record, n) for n in ("id", "name", "description", "project_id")}
        return {**shown, "tenant_id": record.project_id, "shared": record.shared}

    async def leave(self, tx: Tx, record: MeteringLabel) -> None:
        await hold(tx, self.plural, record.id)
        for rule in await METERING_RULES.all(tx, metering_label_id=record.id):
            await METERING_RULES.delete(tx, rule)

    async def changed(self, ctx: Context, *records: MeteringLabel) -> None:
        await _wake(ctx, *records)


class MeteringRules(Plain[MeteringRule], path="/metering/metering-label-rules", create=CreateRule):
    table = METERING_RULES
    noun = "metering_label_rule"
    plural = "metering_label_rules"
    id_param = "metering_label_rule_id"
    see = "get_metering_label_rule"
    rules = kept_by(MANAGER, noun, readers=READER, updated=False)
    listing = listing(
        ("metering_label_id", "direction", *_PREFIXES), False, excluded=Filter(kind=bool)
    )

    def view(self, ctx: Context, record: MeteringRule) -> dict[str, Any]:
        shown = {n: getattr(record, n) for n in ("id", "metering_label_id", "direction")}
        prefixes = {n: getattr(record, n) or None for n in _PREFIXES}
        return {**shown, **prefixes, "excluded": record.excluded}

    async def wanted(self, ctx: Context, body: Attributes, raw: Mapping[str, Any]) -> MeteringRule:
        """It is its label's project's."""
        assert isinstance(body, CreateRule)
        label = await MeteringLabels().visible(ctx, body.metering_label_id)
        ctx.require("create_metering_label_rule", {"project_id": label.project_id})
        given = {n: v for n, v in body.given().items() if n != "project_id" and v is not None}
        return await self._new(ctx, label.project_id, given)

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: MeteringRule | None
    ) -> dict[str, Any]:
        if given["direction"] not in _DIRECTIONS:
            raise Invalid(
                f"Invalid input for direction. Reason: '{given['direction'][:40]}' is not in "
                f"{list(_DIRECTIONS)}."
            )
        named = [n for n in _PREFIXES if given.get(n)]
        if not named:
            raise Invalid(
                "You must define at least one of the following parameters 'remote_ip_prefix', or "
                "'source_ip_prefix' or 'destination_ip_prefix'."
            )
        if "remote_ip_prefix" in named and len(named) > 1:
            raise Invalid(
                "Cannot use 'remote-ip-prefix' in conjunction with 'source-ip-prefix' or "
                "'destination-ip-prefix'."
            )
        blocks = {n: _block(n, given[n]) for n in named}
        if len({b.version for b in blocks.values()}) > 1:
            raise Invalid("'source_ip_prefix' and 'destination_ip_prefix' are of two IP versions.")
        return {**given, **{n: str(b) for n, b in blocks.items()}}

    async def enter(self, tx: Tx, new: MeteringRule, old: MeteringRule | None) -> MeteringRule:
        """Raises Conflict for an overlap: what is in both would be counted by chance."""
        await hold(tx, MeteringLabels.plural, new.metering_label_id)
        await LABELS.get(tx, new.metering_label_id)
        alike = {"metering_label_id": new.metering_label_id, "direction": new.direction}
        for other in await METERING_RULES.all(tx, **alike, excluded=int(new.excluded)):
            if not (new.remote_ip_prefix and other.remote_ip_prefix):
                continue
            mine, others = ip_network(new.remote_ip_prefix), ip_network(other.remote_ip_prefix)
            if mine.version == others.version and mine.overlaps(others):
                raise Conflict(
                    f"Metering label rule with remote_ip_prefix '{mine}' overlaps another.",
                    code="MeteringLabelRuleOverlaps",
                )
        return new

    async def changed(self, ctx: Context, *records: MeteringRule) -> None:
        named = sorted({r.metering_label_id for r in records})
        await _wake(ctx, *await LABELS.all(ctx.runtime.store, id=named))


def _block(name: str, text: str) -> Any:
    try:
        return ip_network(text[:64], strict=False)
    except ValueError as error:
        raise Invalid(f"{name}: {text[:64]} is invalid [{error}].") from None


async def _wake(ctx: Context, *labels: MeteringLabel) -> None:
    """The hosts of the routers that the labels are of."""
    store = ctx.runtime.store
    everywhere = any(label.shared for label in labels)
    which = {} if everywhere else {"project_id": sorted({label.project_id for label in labels})}
    rows = await ROUTERS.page(store, Page(which, (("id", False),), limit=1 << 30), select=("host",))
    await wake(ctx.runtime, {host for (host,) in rows})


async def tell_metered(tx: Tx, host: str, at: float, passed: Mapping[str, Traffic]) -> None:
    """What was added to each label since the host told last."""
    for label in await LABELS.all(tx, id=sorted(passed)):
        seen = passed[label.id]
        await emit(
            tx, "l3.meter", label.project_id, label_id=label.id, pkts=seen.packets,
            bytes=seen.octets, time=round(seen.span_s), first_update=round(at - seen.span_s),
            last_update=round(at), host=host, tenant_id=label.project_id,
        )  # fmt: skip
