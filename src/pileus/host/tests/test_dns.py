"""DNS messages against bytes written by hand."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from pileus.host import dns


def query(name: str, kind: int = dns.A) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    head = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    return head + labels + b"\0" + struct.pack("!HH", kind, 1)


def asked(name: str, kind: int = dns.A) -> dns.Question:
    question = dns.parse(query(name, kind))
    assert question is not None
    return question


def test_a_question_is_read_without_regard_to_case_and_echoed_as_sent() -> None:
    question = asked("VM-1.OpenStackLocal")
    assert question.name == "vm-1.openstacklocal"
    reply = dns.address_answer(question, ["10.0.0.5"])
    assert b"\x04VM-1\x0eOpenStackLocal" in reply
    assert reply.endswith(bytes([10, 0, 0, 5]))
    assert dns.answers(reply, 7, question)


def test_an_existing_name_without_addresses_of_that_kind_is_an_empty_answer() -> None:
    reply = dns.address_answer(asked("vm-1", dns.AAAA), ["10.0.0.5"])
    _, flags, _, count, *_ = struct.unpack_from("!HHHHHH", reply)
    assert (flags & 15, count) == (dns.NO_ERROR, 0)


def test_reverse_names_give_their_address() -> None:
    assert str(dns.reverse_address("5.0.0.10.in-addr.arpa")) == "10.0.0.5"
    six = ".".join(reversed("fd000001" + "0" * 23 + "c")) + ".ip6.arpa"
    assert str(dns.reverse_address(six)) == "fd00:1::c"
    assert dns.reverse_address("999.0.0.10.in-addr.arpa") is None
    assert dns.reverse_address("example.org") is None


def test_an_answer_to_another_question_is_not_ours() -> None:
    question = asked("www.example.org")
    other = dns.address_answer(asked("www.example.net"), ["203.0.113.9"])
    assert not dns.answers(other, 7, question)
    right = dns.address_answer(question, ["203.0.113.9"])
    assert not dns.answers(right, 8, question)
    assert dns.answers(dns.with_id(right, 8), 8, question)


def test_answers_and_several_questions_at_once_are_not_read() -> None:
    assert dns.parse(dns.address_answer(asked("vm-1"), ["10.0.0.5"])) is None
    double = bytearray(query("vm-1"))
    double[5] = 2
    assert dns.parse(bytes(double)) is None


@given(st.binary(max_size=300))
def test_no_bytes_of_a_guest_break_the_reader(noise: bytes) -> None:
    head = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    for sent in (noise, head + noise):
        question = dns.parse(sent)
        if question:
            dns.reverse_address(question.name)
            assert dns.failure(question, dns.REFUSED)
