"""Microversions: both header spellings, `latest`, and one cached answer per distinct pair of headers."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from .faults import Invalid, NotAcceptable

Version = tuple[int, int]
NO_VERSION: Version = (0, 0)


def version(text: str) -> Version:
    """`2.96` -> (2, 96). Raises Invalid."""
    major, dot, minor = text.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise Invalid(
            f"API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."
        )
    return int(major), int(minor)


def spelled(v: Version) -> str:
    return f"{v[0]}.{v[1]}"


@dataclass(frozen=True)
class Negotiated:
    """What both sides agreed on. The same `epoch` means the same shape of every view."""

    version: Version
    headers: dict[str, str]
    epoch: int = 0


UNVERSIONED = Negotiated(NO_VERSION, {})


@dataclass
class Microversions:
    """`names` are the service's names in the common header; `legacy` is a header of its own."""

    names: tuple[str, ...]
    low: str
    high: str
    legacy: str = ""
    boundaries: list[Version] = field(default_factory=list)
    _cache: dict[tuple[str, str], Negotiated] = field(default_factory=dict)

    def negotiate(self, header: str, legacy: str) -> Negotiated:
        """Raises Invalid for a malformed version, NotAcceptable (with min and max) for one out of range."""
        found = self._cache.get((header, legacy))
        if found is None:
            found = self._work_out(header, legacy)
            if len(self._cache) < 1000:  # keys come from the network
                self._cache[header, legacy] = found
        return found

    def _work_out(self, header: str, legacy: str) -> Negotiated:
        wanted = legacy or self.low
        for part in header.split(","):
            service, _, text = part.strip().partition(" ")
            if service.lower() in self.names:
                wanted = text.strip()
                break
        chosen = version(self.high if wanted == "latest" else wanted)
        if not version(self.low) <= chosen <= version(self.high):
            raise NotAcceptable(
                f"Version {wanted} is not supported by the API. "
                f"Minimum is {self.low} and maximum is {self.high}."
            )
        return Negotiated(chosen, self._headers(chosen), bisect_right(self.boundaries, chosen))

    def _headers(self, chosen: Version) -> dict[str, str]:
        text = spelled(chosen)
        headers = {
            "openstack-api-version": f"{self.names[0]} {text}",
            "vary": "OpenStack-API-Version",
        }
        if self.legacy:
            headers[self.legacy.lower()] = text
            headers["vary"] += ", " + self.legacy
        return headers
