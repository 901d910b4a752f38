"""Rules as data: what the writers refuse, and what a change of fragments becomes."""

from __future__ import annotations

import pytest

from pileus.host import nftables as nft
from pileus.host.ruleset import Fragment, LiveTable, Table
from pileus.kernel.faults import Invalid, Unavailable

TABLE = Table(
    family="bridge",
    name="t",
    sets={"ours": "type ifname;", "of": "type ifname : verdict;"},
    chains={"pre": ("type filter hook prerouting priority 0; policy accept;", "iifname vmap @of")},
)


def port(name: str, *rules: str) -> Fragment:
    return Fragment(
        chains={f"c_{name}": rules},
        elements={"ours": frozenset({f'"{name}"'}), "of": frozenset({f'"{name}" : jump c_{name}'})},
    )


@pytest.mark.parametrize("text", ["", "a b", 'x"', "x;", "tap\n", "0x" + "1" * 40, "tap{", "ä"])
def test_no_odd_text_becomes_a_device_name(text: str) -> None:
    with pytest.raises(Invalid):
        nft.interface(text)


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0.1; flush ruleset", "::1%eth0/x", "a"])
def test_no_odd_text_becomes_an_address(text: str) -> None:
    with pytest.raises(Invalid):
        nft.block(text)


def test_host_bits_are_cleared_and_single_addresses_stay_bare() -> None:
    assert nft.block("10.0.0.7/24") == "10.0.0.0/24"
    assert nft.block("10.0.0.7/32") == "10.0.0.7"
    assert nft.block("FD00::1") == "fd00::1"


def test_nothing_is_written_when_nothing_differs() -> None:
    same = {"a": port("a", "accept")}
    assert TABLE.difference(same, {"a": port("a", "accept")}) == ""


def test_a_change_touches_only_what_changed() -> None:
    old = {"a": port("a", "accept"), "b": port("b", "accept")}
    commands = TABLE.difference(old, {**old, "b": port("b", "drop")})
    assert commands.splitlines() == [
        "add chain bridge t c_b",
        "flush chain bridge t c_b",
        "add rule bridge t c_b drop",
    ]


def test_of_an_objects_chains_only_those_that_differ_are_written() -> None:
    old = Fragment(chains={"in": ("accept",), "out": ("accept",), "gone": ("drop",)})
    new = Fragment(chains={"in": ("accept",), "out": ("drop",)})
    assert TABLE.difference({"a": old}, {"a": new}).splitlines() == [
        "add chain bridge t in",
        "add chain bridge t out",
        "flush chain bridge t out",
        "flush chain bridge t gone",
        "add rule bridge t out drop",
        "delete chain bridge t gone",
    ]


def test_what_goes_leaves_the_maps_before_its_chain_is_deleted() -> None:
    commands = TABLE.difference({"a": port("a", "accept")}, {}).splitlines()
    assert commands[0].startswith("delete element")
    assert commands[-1] == "delete chain bridge t c_a"


def test_what_is_altered_leaves_the_others_as_they_were_written() -> None:
    ran: list[str] = []
    live = LiveTable(TABLE, ran.append)
    live.write({"a": port("a", "accept"), "b": port("b", "accept")})
    assert live.alter({"b": port("b", "drop")}) == {}
    assert "c_a" not in ran[-1] and "add rule bridge t c_b drop" in ran[-1]


def test_a_refused_fragment_costs_only_itself() -> None:
    ran: list[str] = []

    def kernel(commands: str) -> None:
        if "nonsense" in commands:
            raise Unavailable("syntax error")
        ran.append(commands)

    live = LiveTable(TABLE, kernel)
    parts = {"a": port("a", "accept"), "b": port("b", "nonsense"), "c": port("c", "accept")}
    assert live.write(parts) == {"b": "syntax error"}
    written = "\n".join(ran)
    assert "c_a" in written
    assert "c_c" in written
    assert "c_b" not in written


def test_a_table_that_somebody_altered_is_written_anew() -> None:
    ran: list[str] = []
    altered = False

    def kernel(commands: str) -> None:
        if altered and not commands.startswith("add table"):
            raise Unavailable("No such file or directory")
        ran.append(commands)

    live = LiveTable(TABLE, kernel)
    live.write({"a": port("a", "accept")})
    altered = True
    assert live.write({"a": port("a", "drop")}) == {}
    assert ran[-1] == TABLE.whole({"a": port("a", "drop")})
