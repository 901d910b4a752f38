"""What a QoS policy is: rules that ports, networks, floating IPs and gateways can be put under."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pileus.kernel.faults import Invalid
from pileus.kernel.store import Column, Many, Unique

from .resource import COLUMNS, SHARED_WITH, TAGS, Nouns, Shared

EGRESS, INGRESS, ANY = "egress", "ingress", "any"
MOST = 2_147_483_647  # upstream's column
_MARKS = (0, *range(8, 41, 2), 44, 46, 48, 56)


class Parameter(msgspec.Struct, frozen=True):
    """One value of a rule: a number up to `MOST`, or one of `choices`. Without `usual` it must be given."""

    choices: tuple[int | str, ...] = ()
    usual: int | str | None = None

    def checked(self, name: str, value: object) -> int | str:
        if self.choices:
            for choice in self.choices:
                if str(value) == str(choice):
                    return choice
            listed = list(self.choices)
            raise Invalid(f"Invalid input for {name}. Reason: '{value}' is not in {listed}.")
        text = str(value)
        if not text.isascii() or not text.isdigit() or int(text[:11]) > MOST:
            raise Invalid(
                f"Invalid input for {name}. Reason: '{text[:20]}' must be from 0 to {MOST}."
            )
        return int(text)


_DIRECTION = Parameter((EGRESS, INGRESS), EGRESS)
PARAMETERS: dict[str, dict[str, Parameter]] = {
    "bandwidth_limit": {
        "max_kbps": Parameter(),
        "max_burst_kbps": Parameter(usual=0),
        "direction": _DIRECTION,
    },
    "packet_rate_limit": {
        "max_kpps": Parameter(),
        "max_burst_kpps": Parameter(usual=0),
        "direction": _DIRECTION,
    },
    "dscp_marking": {"dscp_mark": Parameter(_MARKS)},
    "minimum_bandwidth": {"min_kbps": Parameter(), "direction": _DIRECTION},
    "minimum_packet_rate": {
        "min_kpps": Parameter(),
        "direction": Parameter((EGRESS, INGRESS, ANY), EGRESS),
    },
}
RESERVING = (
    "minimum_bandwidth",
    "minimum_packet_rate",
)  # placement keeps them, for ports of guests


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str
    values: dict[str, int | str]

    @property
    def kind(self) -> tuple[str, object]:
        """A policy has one of each."""
        return self.type, self.values.get("direction")

    def is_beside(self, other: Rule) -> bool:
        """Can a policy have both?"""
        ways = {self.kind[1], other.kind[1]}
        return self.type != other.type or (len(ways) == 2 and ANY not in ways)


class QosPolicy(Shared, kw_only=True, frozen=True):
    is_default: bool = False
    rules: list[Rule] = []


QOS_POLICIES = Nouns[QosPolicy](
    "network_qos_policies",
    QosPolicy,
    columns=(
        *COLUMNS,
        "shared",
        "is_default",
        Column("single", lambda p: "default" if p.is_default else p.id),
    ),
    unique=(
        Unique(
            ("project_id", "single"),
            lambda p: f"A default QoS policy exists for project {p.project_id}.",
            "QoSPolicyDefaultAlreadyExists",
        ),
    ),
    many=(TAGS, SHARED_WITH, Many("rules", lambda p: [r.id for r in p.rules])),
    indexes=(("project_id", "created_at", "id"),),
    noun="QoS policy",
).worded("QosPolicyNotFound", "QoS policy {id} could not be found.")


def reserving(rules: Iterable[Rule]) -> str:
    """The type of a rule that keeps something for its port, "" if there is none."""
    return next((r.type for r in rules if r.type in RESERVING), "")
