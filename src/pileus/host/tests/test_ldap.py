"""A directory server that is gone, silent, speaks something else or gives only a part: an error in time, never a guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pileus.host.ldap import FakeLdap, LdapAddress, LdapFailed, LdapServer, dn_key, escaped

ADMIN = "cn=admin,o=x"
ENTRIES = {
    ADMIN: {"userPassword": "secret", "objectClass": ["person"]},
    "uid=bob,o=x": {"uid": "bob", "userPassword": "his", "objectClass": ["person"]},
}
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[str]:
    """Something that listens and talks like that; its URL."""
    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield f"ldap://127.0.0.1:{port}"


def address(*urls: str, **more: Any) -> LdapAddress:
    return LdapAddress(urls, ADMIN, "secret", **{"timeout_s": 0.3, **more})


async def fails_in_time(ldap: LdapServer) -> None:
    for ask in (
        lambda: ldap.search("o=x", "(uid=*)", ["uid"]),
        lambda: ldap.is_password("uid=bob,o=x", "his"),
    ):
        since = time.monotonic()
        with pytest.raises(LdapFailed):
            await ask()
        assert time.monotonic() - since < 3
    ldap.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" * 10)
    writer.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("talk", [silent, rubbish, hangs_up])
def test_a_server_that_does_not_speak_ldap_is_an_error_in_time(talk: Talk) -> None:
    async def story() -> None:
        async with server(talk) as url:
            await fails_in_time(LdapServer(address(url)))

    asyncio.run(story())


def test_a_server_that_is_not_there_is_an_error_in_time() -> None:
    async def story() -> None:
        async with server(silent) as url:
            gone = url
        await fails_in_time(LdapServer(address(gone)))
        await fails_in_time(LdapServer(address("http://127.0.0.1/")))
        await fails_in_time(LdapServer(address()))

    asyncio.run(story())


def test_a_slow_server_keeps_its_own_threads_and_nobody_elses() -> None:
    async def story() -> None:
        slow = FakeLdap(address("ldap://x", timeout_s=0.1), ENTRIES)
        slow.pause_s = 1.0
        asked = [slow.search("o=x", "(uid=*)", ["uid"]) for _ in range(50)]
        since = time.monotonic()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert time.monotonic() - since < 1
        assert all(isinstance(f, LdapFailed) for f in found)
        assert await asyncio.to_thread(lambda: "free") == "free"
        slow.close()

    asyncio.run(story())


def test_the_next_url_is_tried() -> None:
    class Second(FakeLdap):
        def connection(self, url: str, user: str, password: str) -> Any:
            if url == "ldap://first":
                raise OSError("no route")
            return super().connection(url, user, password)

    async def story() -> None:
        both = Second(address("ldap://first", "ldap://second"), ENTRIES)
        found = await both.search("o=x", "(uid=bob)", ["uid"])
        assert [e.first("uid") for e in found] == ["bob"]

    asyncio.run(story())


def test_passwords_are_tried_by_the_directory_and_empty_ones_never() -> None:
    async def story() -> None:
        fake = FakeLdap(address("ldap://x"), ENTRIES)
        assert await fake.is_password("uid=bob,o=x", "his")
        assert not await fake.is_password("uid=bob,o=x", "wrong")
        assert not await fake.is_password("uid=nobody,o=x", "his")
        fake.is_gone = True
        assert not await fake.is_password("uid=bob,o=x", ""), "nobody is asked"

    asyncio.run(story())


def test_who_is_not_let_in_to_search_is_told_so() -> None:
    async def story() -> None:
        wrong = FakeLdap(LdapAddress(("ldap://x",), ADMIN, "wrong"), ENTRIES)
        with pytest.raises(LdapFailed, match="does not let 'cn=admin,o=x' in"):
            await wrong.search("o=x", "(uid=*)", ["uid"])

    asyncio.run(story())


def test_a_filter_that_is_none_is_an_error() -> None:
    async def story() -> None:
        fake = FakeLdap(address("ldap://x"), ENTRIES)
        with pytest.raises(LdapFailed):
            await fake.search("o=x", "(uid=*", ["uid"])

    asyncio.run(story())


def test_names_are_compared_however_they_are_spelled_and_text_is_escaped() -> None:
    assert dn_key("UID=Bob, OU=Users,o=X") == dn_key("uid=bob,ou=users,o=x")
    assert dn_key("nonsense") == ""
    assert escaped("a*(b)\\\0") == "a\\2a\\28b\\29\\5c\\00"
