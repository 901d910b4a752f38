"""libnftables in process, and writers that turn typed values into its language.

Nothing that came from a user reaches the text but through a writer here, which parses the value and
prints it again.
"""

from __future__ import annotations

import ctypes
import re
from ipaddress import ip_address, ip_network

from pileus.kernel.faults import Invalid, Unavailable

_NAME = re.compile(r"[a-z][a-z0-9_]{0,100}\Z")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


class Nftables:
    """One context: it speaks to the namespace of the thread that made it."""

    def __init__(self) -> None:
        self._lib = _library()
        self._context = ctypes.c_void_p(self._lib.nft_ctx_new(0))
        if not self._context:
            raise Unavailable("libnftables cannot open a netlink socket.")
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Execute the commands in one transaction: all or none. Raises Unavailable with nft's own
        words.
        """
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode("ascii"))
        output = self._lib.nft_ctx_get_output_buffer(self._context) or b""
        error = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            text = " ".join(error.decode(errors="replace").split())
            raise Unavailable(f"nftables refused the rules: {text[:300]}", internal=commands[:4000])
        return bytes(output).decode()

    def close(self) -> None:
        if self._context:
            self._lib.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p(None)


def name(prefix: str, id: str) -> str:
    """The name of a chain, set or map for the object with this id."""
    text = prefix + id.lower().replace("-", "_")
    if not _NAME.match(text):
        raise Invalid(f"{id!r} cannot be part of a rule's name.")
    return text


def interface(text: str) -> str:
    """A device name, quoted."""
    if not _INTERFACE.match(text):
        raise Invalid(f"{text!r} is not a device name.")
    return f'"{text}"'


def mac(text: str) -> str:
    if not _MAC.match(text):
        raise Invalid(f"{text!r} is not a MAC address.")
    return text


def block(text: str) -> str:
    """An address or a CIDR, host bits cleared; one address is printed without its length."""
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise Invalid(f"{text!r} is not an address or CIDR.") from error
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def address_hex(text: str) -> str:
    """An address as one number: what raw payload expressions compare with."""
    return hex(int(ip_address(text)))


def number(value: int, highest: int = 0xFFFFFFFF) -> str:
    if not 0 <= value <= highest:
        raise Invalid(f"{value} is not a number from 0 to {highest}.")
    return str(int(value))


def span(low: int, high: int) -> str:
    """A range of ports."""
    return number(low, 65535) if low == high else f"{number(low, 65535)}-{number(high, 65535)}"


def elements(items: list[str]) -> str:
    """The elements clause of a set or map, or nothing when there are none."""
    return f"elements = {{ {', '.join(items)} }};" if items else ""


_loaded: list[ctypes.CDLL] = []


def _library() -> ctypes.CDLL:
    if not _loaded:
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise Unavailable("libnftables.so.1 is missing: install libnftables1.") from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        for getter in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
            getter.restype = ctypes.c_char_p
        _loaded.append(library)
    return _loaded[0]
