"""An image's `locations`, as PATCH changes them where a cloud shows them: places on other people's servers, and notes.

What is said of bytes that nobody here has read is believed, as upstream does; hosts check it when they fetch them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Forbidden, Invalid, TooLarge
from pileus.kernel.resources import Context
from pileus.kernel.schema import IGNORE, Body

from ..keeping import kept, require_formats
from ..record import ACTIVE, QUEUED, WEB, Image, Location
from ..web import facts_of, measured
from .patch import Change

_MOST = 10  # locations of one image: upstream's default
_ALGORITHM = "sha512"  # what a client's own digest is by, where nobody checks it
Url = Annotated[str, Meta(max_length=2048)]
Looked = Mapping[str, tuple[int, bytes]]


class Digests(Body, forbid_unknown_fields=True):
    """What a client says of the bytes: an algorithm and its digest come together."""

    lax = False
    os_hash_algo: Literal["sha1", "sha256", "sha512", "md5"] | UnsetType = UNSET
    os_hash_value: Annotated[str, Meta(max_length=128)] | UnsetType = UNSET
    checksum: Annotated[str, Meta(max_length=32)] | UnsetType = UNSET


class AddLocation(Body):
    lax = False
    unknown = IGNORE
    url: Url
    validation_data: Digests | UnsetType = UNSET

    @property
    def said(self) -> dict[str, str]:
        """What there is of digests. Raises Invalid."""
        found = self.validation_data.given() if self.validation_data else {}
        if found and not {"os_hash_algo", "os_hash_value"} <= found.keys():
            raise Invalid("os_hash_algo and os_hash_value have to be given together.")
        return found


class SetLocation(AddLocation, kw_only=True):
    metadata: dict[str, Any]


def require_status(image: Image, verb: str, *allowed: str) -> None:
    if image.status not in allowed:
        raise Conflict(
            f"It's not allowed to {verb} locations if image status is {image.status}; "
            f"it must be {' or '.join(allowed)}."
        )


def require_size(name: str, value: str, algo: str) -> None:
    """Raises Invalid for what can't be a digest by that algorithm."""
    size = hashlib.new(algo, usedforsecurity=False).digest_size
    try:
        given = bytes.fromhex(value)
    except ValueError:
        raise Invalid(f"{name} ({value}) is not a valid hexadecimal value") from None
    if len(given) != size:
        raise Invalid(
            f"{name}: ({value}) is not the correct size for {algo} (should be ({size}) bytes)"
        )


def asked_for(changes: Sequence[Change]) -> list[Change]:
    return [change for change in changes if change.name == "locations"]


async def looked_at(ctx: Context, image: Image, changes: Sequence[Change]) -> Looked:
    """What is at each new URL: its size and the first bytes. Raises Forbidden, Invalid."""
    keeping, found = kept(ctx.runtime), {}
    known = {place.url for place in image.places if image.has_bytes}
    for change in changes:
        if not keeping.settings.show_multiple_locations:
            raise Forbidden(
                f"It's not allowed to {change.verb} locations if locations are invisible."
            )
        rule = "delete_image_location" if change.verb == "remove" else "set_image_location"
        ctx.require(rule, {"project_id": image.owner, "owner": image.owner})
        for one in _given(change):
            if one.url not in known and one.url not in found:
                found[one.url] = await measured(one.url, keeping.trusted)
    return found


def applied(image: Image, changes: Sequence[Change], looked: Looked) -> dict[str, Any]:
    """The image's fields after the changes. Raises Conflict, Forbidden, Invalid, TooLarge."""
    places = list(image.places) if image.has_bytes else []
    said: dict[str, str] = {}
    for change in changes:
        allowed = (ACTIVE,) if change.verb == "remove" else (ACTIVE, QUEUED)
        require_status(image, change.verb, *allowed)
        given = _given(change)
        said |= _digests(image, given)
        if change.verb == "remove":
            _remove(places, change.at)
        elif change.verb == "add":
            _insert(places, change.at, given[0])
        else:
            places = _replaced(image, places, given)
    if len(places) > _MOST:
        raise TooLarge(f"The limit has been exceeded on the number of image locations: {_MOST}")
    if image.status != QUEUED:
        return {"locations": places}
    require_formats(image)
    size, head = looked[places[0].url]
    return {
        "locations": places,
        "status": ACTIVE,
        "checksum": said.get("checksum", ""),
        "sha512": said.get("os_hash_value", ""),
        "hash_algo": said.get("os_hash_algo", ""),
        **facts_of(image, size, head),
    }


def _given(change: Change) -> list[SetLocation]:
    if change.verb == "remove":
        return []
    values = change.value if change.verb == "replace" else [change.value]
    if not isinstance(values, list):
        raise Invalid(f"Provided object does not match schema 'image': {values!r} is not an array.")
    if not values:
        raise Forbidden("Cannot set locations to empty list.")
    return [SetLocation.take(value) for value in values]


def _digests(image: Image, given: Sequence[SetLocation]) -> dict[str, str]:
    """What is said of the bytes: nothing that differs from what is known. Raises Conflict."""
    known = {"checksum": image.checksum, "os_hash_value": image.sha512}
    known["os_hash_algo"] = image.hash_algo if image.sha512 else ""
    said: dict[str, str] = {}
    for one in given:
        for name, value in (one.said).items():
            if said.setdefault(name, value) != value:
                raise Conflict(f"Conflicting values for {name}")
            if known[name] and known[name] != value:
                raise Conflict(f"{name} is already set with a different value")
    if not said or said.items() <= known.items():
        return {}
    if image.status != QUEUED:
        raise Conflict("New values may only be provided when image status is 'queued'")
    if said["os_hash_algo"] != _ALGORITHM:
        raise Conflict(f"os_hash_algo must be {_ALGORITHM}, not {said['os_hash_algo']}")
    try:
        require_size("os_hash_value", said["os_hash_value"], _ALGORITHM)
        require_size("checksum", said.get("checksum", "0" * 32), "md5")
    except Invalid as e:
        raise Conflict(e.message) from None
    return said


def _place(one: SetLocation, old: Location | None = None) -> Location:
    metadata = {k: v for k, v in one.metadata.items() if k != "store"}
    if old is None:
        return Location(url=one.url, store=WEB, metadata=metadata)
    return msgspec.structs.replace(old, metadata=metadata)


def _insert(places: list[Location], at: str, one: SetLocation) -> None:
    if at != "-" and not at.isdecimal():
        raise Invalid("Invalid position for adding a location.")
    if any(place.url == one.url for place in places):
        raise Invalid(f"The location {one.url} already exists")
    places.insert(len(places) if at == "-" else int(at[:4]), _place(one))


def _remove(places: list[Location], at: str) -> None:
    if len(places) == 1:
        raise Forbidden("Cannot remove last location in the image.")
    if not at.isdecimal() or int(at[:4]) >= len(places):
        raise Invalid("Invalid position for removing a location.")
    if places[int(at)].store != WEB:
        raise Forbidden(
            f"Location {at} is in store {places[int(at)].store}: DELETE the image from there."
        )
    del places[int(at)]


def _replaced(
    image: Image, places: Sequence[Location], given: Sequence[SetLocation]
) -> list[Location]:
    """The same places with other metadata; an image that waits for bytes may be given any."""
    there = {place.url: place for place in places}
    urls = [one.url for one in given]
    if len(set(urls)) != len(urls):
        raise Invalid("A location is given twice.")
    if there and set(urls) != there.keys() and image.status != QUEUED:
        raise Invalid(f"Original locations is not empty: {', '.join(there)} have to stay.")
    return [_place(one, there.get(one.url)) for one in given]
