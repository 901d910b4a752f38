"""DHCP messages against bytes written by hand."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.host import dhcp
from pileus.kernel.faults import Invalid

MAC = bytes.fromhex("fa163e00000b")
LEASE = dhcp.Lease(
    address=IPv4Address("10.0.0.11"),
    network=IPv4Network("10.0.0.0/24"),
    server=IPv4Address("10.0.0.2"),
    mtu=1450,
    gateway=IPv4Address("10.0.0.1"),
    dns_servers=(IPv4Address("10.0.0.2"),),
    hostname="vm-11",
    domain="openstacklocal",
    routes=((IPv4Network("169.254.169.254/32"), IPv4Address("10.0.0.2")),),
)


def packet(kind: int, *, client: str = "0.0.0.0", options: bytes = b"") -> bytes:
    head = struct.pack("!4B4sHH", 1, 1, 6, 0, b"abcd", 0, 0)
    head += IPv4Address(client).packed + bytes(12) + MAC.ljust(16, b"\0") + bytes(192)
    return head + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff"


def asking(ip: str) -> bytes:
    return bytes([50, 4]) + IPv4Address(ip).packed


def options_of(reply: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while reply[at] != 255:
        size = reply[at + 1]
        found[reply[at]] = reply[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def reply_to(sent: bytes) -> bytes:
    request = dhcp.parse(sent)
    assert request is not None
    reply = dhcp.answer(request, LEASE)
    assert reply is not None
    return reply


def test_a_discover_is_offered_the_address_and_all_that_goes_with_it() -> None:
    reply = reply_to(packet(dhcp.DISCOVER))
    assert reply[16:20] == IPv4Address("10.0.0.11").packed
    assert reply[28:34] == MAC
    told = options_of(reply)
    assert told[53] == bytes([dhcp.OFFER])
    assert told[1] == bytes([255, 255, 255, 0])
    assert told[26] == (1450).to_bytes(2, "big")
    assert (told[12], told[15]) == (b"vm-11", b"openstacklocal")


def test_the_default_route_is_repeated_among_the_classless_ones() -> None:
    told = options_of(reply_to(packet(dhcp.DISCOVER)))
    metadata = b"\x20" + bytes([169, 254, 169, 254]) + bytes([10, 0, 0, 2])
    assert told[121] == metadata + b"\x00" + bytes([10, 0, 0, 1])


def test_a_request_for_another_address_is_refused() -> None:
    reply = reply_to(packet(dhcp.REQUEST, options=asking("10.0.0.99")))
    assert options_of(reply)[53] == bytes([dhcp.NAK])
    assert reply[16:20] == bytes(4)


def test_a_request_for_its_own_address_is_acknowledged() -> None:
    assert options_of(reply_to(packet(dhcp.REQUEST, options=asking("10.0.0.11"))))[53] == b"\x05"


def test_a_client_that_chose_another_server_is_left_alone() -> None:
    other = bytes([54, 4]) + IPv4Address("10.0.0.66").packed
    request = dhcp.parse(packet(dhcp.REQUEST, options=asking("10.0.0.11") + other))
    assert request is not None
    assert dhcp.answer(request, LEASE) is None


def test_a_renewal_is_answered_at_the_clients_own_address() -> None:
    request = dhcp.parse(packet(dhcp.REQUEST, client="10.0.0.11"))
    assert request is not None
    reply = dhcp.answer(request, LEASE)
    assert reply is not None
    assert dhcp.reachable(request, reply)


def test_relayed_and_broken_packets_are_no_requests() -> None:
    relayed = bytearray(packet(dhcp.DISCOVER))
    relayed[24:28] = b"\x0a\x00\x00\x09"
    assert dhcp.parse(bytes(relayed)) is None
    assert dhcp.parse(packet(dhcp.DISCOVER)[:200]) is None
    assert dhcp.parse(packet(dhcp.DISCOVER).replace(b"\x63\x82\x53\x63", b"\0\0\0\0")) is None


@given(st.binary(max_size=600), st.binary(max_size=300))
def test_no_bytes_of_a_guest_break_the_reader(noise: bytes, options: bytes) -> None:
    for sent in (noise, packet(dhcp.REQUEST, options=options)):
        request = dhcp.parse(sent)
        reply = dhcp.answer(request, LEASE) if request else None
        assert reply is None or len(reply) >= 300


def test_a_frame_carries_a_correct_checksum() -> None:
    frame = dhcp.frame(b"x" * 300, source=LEASE.server, target=LEASE.address)
    total = sum(struct.unpack("!10H", frame[:20]))
    assert (total >> 16) + (total & 0xFFFF) == 0xFFFF


@pytest.mark.parametrize(
    ("name", "value", "encoded"),
    [
        ("mtu", "1400", (26, b"\x05\x78")),
        ("bootfile-name", "pxelinux.0", (67, b"pxelinux.0")),
        ("domain-name", '"test.domain"', (15, b"test.domain")),
        ("42", "10.0.0.5, 10.0.0.6", (42, bytes([10, 0, 0, 5, 10, 0, 0, 6]))),
        ("classless-static-route", "10.1.0.0/16,10.0.0.9", (121, bytes([16, 10, 1, 10, 0, 0, 9]))),
    ],
)
def test_extra_options_are_encoded_by_their_kind(
    name: str, value: str, encoded: tuple[int, bytes]
) -> None:
    assert dhcp.extra_option(name, value) == encoded


@pytest.mark.parametrize(
    ("name", "value"),
    [("router", "nowhere"), ("message-type", "1"), ("53", "1"), ("999", "x"), ("mtu", "70000"),
     ("67", "x" * 256), ("classless-static-route", "10.1.0.0/16")],
)  # fmt: skip
def test_extra_options_that_cannot_be_sent_are_invalid(name: str, value: str) -> None:
    with pytest.raises(Invalid):
        dhcp.extra_option(name, value)
