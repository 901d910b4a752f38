"""What is checked, as the caller, before a server is promised; then the records, all or nothing."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, OverQuota
from pileus.kernel.quota import limit_of, usage
from pileus.kernel.resources import Context
from pileus.kernel.sagas import Journal
from pileus.kernel.store import Tx
from pileus.services.block_storage.contract import VolumeInfo
from pileus.services.compute import checks, instance_actions, nodes, server_groups
from pileus.services.compute.aggregates import zones_of
from pileus.services.compute.block_device import BlockDevice, root_of
from pileus.services.compute.flavors import FLAVORS, Flavor
from pileus.services.compute.keypairs import Keypair, key_of
from pileus.services.compute.server import SERVERS, FlavorCopy, ImageCopy, Server
from pileus.services.compute.servers import block_devices
from pileus.services.compute.servers.block_devices import Layout
from pileus.services.compute.servers.bodies import AskedNetwork, CreateServer
from pileus.services.compute.servers.sagas import CREATE
from pileus.services.compute.settings import settings_of
from pileus.services.image.contract import IMAGES, ImageInfo
from pileus.services.network.contract import NETWORK, NicRequest

_RULE = "os_compute_api:servers:create"
_GIB = 1 << 30
_NO_IMAGE = "Can not find requested image"
# What a volume keeps of its image that is not of guests.
_OF_THE_IMAGE = frozenset(
    (
        "image_id",
        "image_name",
        "size",
        "checksum",
        "container_format",
        "disk_format",
        "min_ram",
        "min_disk",
    )
)
_DISK_CONFIGS = ("AUTO", "MANUAL")
DEFAULT_GROUP = "default"
MOST_AT_ONCE = 1000  # servers of one request


@dataclass(frozen=True)
class Plan:
    """A request that holds: one server as a pattern, and how many of it."""

    pattern: Server
    least: int
    most: int
    key: Keypair | None = None


async def plan(ctx: Context, body: CreateServer) -> Plan:
    """Everything that can be checked before the answer. Raises Invalid, Forbidden, Conflict, OverQuota."""
    least, most = _counts(body)
    _refuse_what_is_not_served(body)
    zone, host = await _destination(ctx, body)
    flavor = await usable_flavor(ctx, str(body.flavorRef))
    image = await _image(ctx, body)
    disks = await block_devices.layout(ctx, body, flavor, image, most)
    key = await _key(ctx, body)
    networks, groups = await _networks(ctx, body, most)
    name = checks.name(body.name)
    if body.hostname is not UNSET and most > 1:
        raise Invalid("Unable to allocate a single hostname to multiple instances")
    hints = _hints(ctx)
    pattern = Server(
        id="",
        project_id=ctx.caller.project_id,
        user_id=ctx.caller.user_id,
        name=name,
        hostname=_hostname(ctx, body),
        flavor=flavor.copy(),
        image=_started_from(ctx, flavor, image, disks),
        volumes=disks.volumes,
        asked_ephemeral=disks.ephemeral,
        asked_swap=disks.swap,
        pinned_zone=zone,
        requested_host=host,
        description=_description(ctx, body, name),
        key_name=key.name if key else "",
        public_key=key.public_key if key else "",
        key_type=key.type if key else "ssh",
        metadata=_metadata(body),
        tags=checks.tags(body.tags) if body.tags is not UNSET else [],
        user_data=_user_data(body),
        config_drive=checks.flag(body.config_drive, "config_drive"),
        networks=networks,
        security_groups=groups,
        access_ipv4=checks.address(body.accessIPv4, 4, "accessIPv4"),
        access_ipv6=checks.address(body.accessIPv6, 6, "accessIPv6"),
        disk_config=_disk_config(body.disk_config) or "MANUAL",
        group=await _group(ctx, hints),
        scheduler_hints=hints,
    )
    check_drive(pattern)
    return Plan(pattern, least, most, key)


async def insert(ctx: Context, asked: Plan) -> tuple[list[Server], list[Journal]]:
    """One transaction for the records, quotas and sagas of all. Raises OverQuota."""
    world, sagas = ctx.runtime.world, ctx.runtime.sagas
    reservation = "r-" + world.new_hex()[:8]
    made, entries = [], []
    async with ctx.runtime.store.tx() as tx:
        count = await _allowed(tx, asked)
        for n in range(count):
            id = world.new_id()
            server = replace(asked.pattern, id=id, reservation_id=reservation, launch_index=n)
            if server.volumes:
                volumes = block_devices.for_server(world, server.volumes)
                server = replace(server, volumes=volumes)
            if asked.most > 1:
                name = f"{server.name}-{n + 1}"
                server = replace(server, name=name, hostname=sanitized(name, id))
            elif not server.hostname:
                server = replace(server, hostname=sanitized(server.name, id))
            server, entry = await sagas.begin(
                tx, CREATE, server, caller=ctx.caller, request_id=ctx.request_id
            )
            await instance_actions.record(tx, ctx, server, "create", entry.id)
            made.append(server)
            entries.append(entry)
        if group := asked.pattern.group:
            ids = [server.id for server in made]
            await server_groups.join(tx, asked.pattern.project_id, group, ids)
    return made, entries


async def _allowed(tx: Tx, asked: Plan) -> int:
    """How many of `least` to `most` the quotas let be made. Raises OverQuota if not even `least`."""
    pattern, count = asked.pattern, asked.most
    await tx.lock(f"compute.quota.{pattern.project_id}")
    used = await usage(tx, "compute", pattern.project_id)
    for quota in SERVERS.quotas:
        cost, had = quota.of(pattern), used.get(quota.name, 0)
        limit = await limit_of(tx, "compute", quota.name, pattern.project_id, quota.default)
        if limit < 0 or cost == 0:
            continue
        room = max(0, limit - had) // cost
        if room < asked.least:
            raise OverQuota(quota.name, asked.least * cost, had, limit)
        count = min(count, room)
    return count


def _counts(body: CreateServer) -> tuple[int, int]:
    least = body.min_count if body.min_count is not UNSET else 1
    most = body.max_count if body.max_count is not UNSET else least
    if least > most:
        raise Invalid("min_count must be <= max_count")
    if most > MOST_AT_ONCE:
        raise Invalid(f"max_count is {most}; at most {MOST_AT_ONCE} servers are made at once.")
    return least, most


def _refuse_what_is_not_served(body: CreateServer) -> None:
    """Certificates and injected files are not there yet: said before anything is made."""
    if body.trusted_image_certificates not in (UNSET, None, []):
        raise Invalid("Signed images are not served: leave out trusted_image_certificates.")
    if body.personality not in (UNSET, []):
        raise Invalid("Injecting files is not served: use user_data instead of personality.")


async def _destination(ctx: Context, body: CreateServer) -> tuple[str, str]:
    """The zone and host asked for: `zone`, `zone:host`, or the fields of 2.74. "" is anywhere."""
    asked = body.availability_zone if body.availability_zone is not UNSET else ""
    if asked:
        checks.name(asked, "availability_zone")
    zone, colon, rest = asked.partition(":")
    host, _, node = rest.partition(":")
    if colon:
        ctx.require(_RULE + ":forced_host")
    host = host or node
    named = [h for h in (body.host, body.hypervisor_hostname) if h is not UNSET and h]
    if named:
        ctx.require("compute:servers:create:requested_destination")
        if host or len(set(named)) > 1:
            raise Invalid(
                "One mechanism with host and/or hypervisor_hostname and another mechanism with "
                "zone:host:node are mutually exclusive."
            )
        host = named[0]
    if zone or host:
        zone = await _known_place(ctx, zone, host, forced=bool(colon))
    return zone, host


async def _known_place(ctx: Context, zone: str, host: str, *, forced: bool) -> str:
    """The zone to keep to. Raises Invalid."""
    try:
        found = await nodes.place(ctx.runtime, host) if host else None
    except NotFound as e:
        raise Invalid(e.message) from None
    if forced and found:  # the host's own zone wins over what stands before the colon
        return zone if found.zone == zone else ""
    known = {*(await zones_of(ctx.runtime.store)).values(), settings_of(ctx.runtime).default_zone}
    if zone and zone not in known:
        raise Invalid("The requested availability zone is not available")
    return zone


async def usable_flavor(ctx: Context, ref: str) -> Flavor:
    """By id, or by a URL that ends in one; not there if the caller has no access to it."""
    id = ref.rstrip("/").rsplit("/", 1)[-1]
    flavor = await FLAVORS.find(ctx.runtime.store, id)
    if flavor is None or not _may_use(ctx, flavor):
        raise Invalid(f"Flavor {id} could not be found.")
    return flavor


def _may_use(ctx: Context, flavor: Flavor) -> bool:
    return flavor.is_public or ctx.caller.is_admin or ctx.caller.project_id in flavor.projects


async def _image(ctx: Context, body: CreateServer) -> ImageInfo | None:
    """The image that is named, if the caller may see it. Raises Invalid."""
    id = body.imageRef.rstrip("/").rsplit("/", 1)[-1]
    if not id:
        return None
    if not checks.is_uuid(id):
        raise checks.wrong("imageRef", body.imageRef, f"{body.imageRef!r} is not a 'uuid'")
    return await _seen(ctx, id, _NO_IMAGE)


def _started_from(
    ctx: Context, flavor: Flavor, image: ImageInfo | None, disks: Layout
) -> ImageCopy:
    """What is known of what the server starts from, if it fits. Raises Invalid, Forbidden."""
    root = root_of(disks.volumes)
    if root is None and image is not None:
        check_image(image, flavor.copy())
        if flavor.disk == 0 and not ctx.allows(_RULE + ":zero_disk_flavor"):
            raise Forbidden("Only volume-backed servers are allowed for flavors with zero disk.")
    if isinstance(disks.said_by, ImageInfo):
        _check_active(disks.said_by)
        found = copy_of(disks.said_by)
    else:
        found = _copy_of_volume(disks.said_by)
    if found.is_for_containers and disks.volumes:
        raise Invalid(
            f"Image {found.id} is of containers, which have no volumes: leave out "
            "block_device_mapping_v2."
        )
    if root is None:
        return found
    _check_minimum_of_volume(found, flavor.copy(), root)
    return replace(found, id=image.id if image else "", min_disk=0, is_volume=True)


def _copy_of_volume(volume: VolumeInfo | None) -> ImageCopy:
    """What its image said of guests; as large as the volume is, it fits. None: one that has nothing on it."""
    said = volume.image_metadata if volume else {}
    return ImageCopy(
        id="",
        disk_format="raw",
        sha512="",
        size=0,
        min_ram=int(said.get("min_ram") or 0),
        properties={k: v for k, v in said.items() if k not in _OF_THE_IMAGE},
    )


def _check_minimum_of_volume(image: ImageCopy, flavor: FlavorCopy, root: BlockDevice) -> None:
    """Raises Invalid for an image that asks for a larger flavor, or for a larger volume than is to be made of it."""
    check_minimum(replace(image, min_disk=0), flavor)
    if root.is_made_for_it and root.size < image.min_disk:
        raise Invalid(
            "Volume is smaller than the minimum size specified in image metadata. Volume size is "
            f"{root.size * _GIB} bytes, minimum size is {image.min_disk * _GIB} bytes."
        )


async def bootable(
    ctx: Context, id: str, flavor: FlavorCopy, missing: str = _NO_IMAGE
) -> ImageInfo:
    """An image that the caller may see and that fits the flavor. Raises Invalid."""
    image = await _seen(ctx, id, missing)
    check_image(image, flavor)
    return image


async def _seen(ctx: Context, id: str, missing: str) -> ImageInfo:
    try:
        return await ctx.peer(IMAGES).image(ctx.caller, id)
    except NotFound:
        raise Invalid(missing) from None


def check_image(image: ImageInfo, flavor: FlavorCopy) -> None:
    """Raises Invalid for one that is not ready or does not fit."""
    _check_active(image)
    room = flavor.disk * _GIB
    largest = max(image.size, image.virtual_size)
    if room and largest > room:
        raise Invalid(
            f"Flavor's disk is too small for requested image. Flavor disk is {room} bytes, "
            f"image is {largest} bytes."
        )
    check_minimum(image, flavor)


def _check_active(image: ImageInfo) -> None:
    if image.status != "active":
        raise Invalid(f"Image {image.id} is not active.")


def check_minimum(image: ImageInfo | ImageCopy, flavor: FlavorCopy) -> None:
    """Raises Invalid for an image that asks for a larger flavor."""
    if image.min_ram > flavor.ram:
        raise Invalid("Flavor's memory is too small for requested image.")
    room = flavor.disk * _GIB
    if room and image.min_disk > flavor.disk:
        raise Invalid(
            "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor "
            f"disk is {room} bytes, minimum size is {image.min_disk * _GIB} bytes."
        )


def copy_of(image: ImageInfo) -> ImageCopy:
    return ImageCopy(
        id=image.id,
        disk_format=image.disk_format,
        sha512=image.sha512,
        size=image.size,
        container_format=image.container_format or "bare",
        min_ram=image.min_ram,
        min_disk=image.min_disk,
        properties=image.properties,
    )


async def _key(ctx: Context, body: CreateServer) -> Keypair | None:
    if body.key_name is UNSET:
        return None
    found = await key_of(ctx.runtime.store, ctx.caller.user_id, body.key_name)
    if found is None:
        raise Invalid("Invalid key_name provided.")
    return found


async def _networks(
    ctx: Context, body: CreateServer, most: int
) -> tuple[list[NicRequest], list[str]]:
    """The ports to make or bind, and the groups for those that are made."""
    groups: list[str] = []
    if body.security_groups is not UNSET:
        groups = list(dict.fromkeys(g.name for g in body.security_groups if g.name is not UNSET))
    asked = body.networks
    if asked is UNSET and ctx.version >= (2, 37):
        raise Invalid("Invalid input for field/attribute server. 'networks' is a required property")
    if isinstance(asked, str) and ctx.version < (2, 37):
        raise checks.wrong("networks", asked, f"{asked!r} is not of type 'array'")
    if isinstance(asked, str) and asked not in ("auto", "none"):
        raise checks.wrong("networks", asked, f"{asked!r} is not one of ['none', 'auto']")
    if asked == "none":
        return [], groups
    requests = [_nic(n) for n in asked] if isinstance(asked, list) and asked else None
    if requests:
        ctx.require(_RULE + ":attach_network")
        _check_many(requests, most)
    try:
        found = await ctx.peer(NETWORK).resolve(ctx.caller, requests, groups)
        if asked == "auto" and not found:
            found = await _auto(ctx, groups)
    except NotFound as e:
        raise Invalid(e.message) from None
    except OverQuota as e:
        raise Forbidden(
            f"Maximum number of ports exceeded: {e.asked} asked, {e.used} of {e.limit} used."
        ) from None
    return found, groups


async def _auto(ctx: Context, groups: list[str]) -> list[NicRequest]:
    """A network made for a project that has none. Raises Invalid where there is nothing to make it of."""
    network = ctx.peer(NETWORK)
    try:
        made = await network.auto_network(ctx.caller)
    except Conflict as e:
        raise Invalid(
            "Unable to automatically allocate a network for project "
            f"{ctx.caller.project_id}: {e.message}"
        ) from None
    return await network.resolve(ctx.caller, [NicRequest(network_id=made)], groups)


def _nic(asked: AskedNetwork) -> NicRequest:
    tag = checks.tag_of(asked.tag) if asked.tag is not UNSET else ""
    address = asked.fixed_ip if asked.fixed_ip is not UNSET and asked.fixed_ip else ""
    if asked.port is not UNSET and asked.port:
        if not checks.is_uuid(asked.port):
            raise checks.wrong("networks/port", asked.port, f"{asked.port!r} is not a 'uuid'")
        if address:
            raise Invalid(
                f"Specified Fixed IP '{address}' cannot be used with port '{asked.port}': "
                "the two cannot be specified together."
            )
        return NicRequest(port_id=asked.port, tag=tag)
    if asked.uuid is UNSET:
        raise Invalid("Bad network format: missing 'uuid'")
    if not checks.is_uuid(asked.uuid):
        raise Invalid(f"Bad networks format: network uuid is not in proper format ({asked.uuid})")
    if address:
        address = checks.address(address, 6 if ":" in address else 4, "networks/fixed_ip")
    return NicRequest(network_id=asked.uuid, fixed_ip=address, tag=tag)


def _check_many(requests: list[NicRequest], most: int) -> None:
    ports = [r.port_id for r in requests if r.port_id]
    for port in ports:
        if ports.count(port) > 1:
            raise Invalid(
                f"Port ID '{port}' was specified twice: you cannot attach a port multiple times."
            )
    if most > 1 and ports:
        raise Invalid("Failed to launch instances: a port cannot be shared by several servers.")
    if most > 1 and any(r.fixed_ip for r in requests):
        raise Invalid(
            "Failed to launch instances: max_count cannot be greater than 1 if an fixed_ip is "
            "specified."
        )


def _hostname(ctx: Context, body: CreateServer) -> str:
    """As asked; "" where it is made from the name, which needs the id."""
    if body.hostname is UNSET:
        return ""
    return checks.hostname(body.hostname, dotted=ctx.version >= (2, 94))


def sanitized(name: str, id: str) -> str:
    """A host name out of any name, as Nova makes it."""
    text = re.sub(r"[ _.]", "-", name.lower())
    text = re.sub(r"[^a-z0-9-]", "", text).strip("-")[:63].strip("-")
    return text or f"server-{id}"


def _description(ctx: Context, body: CreateServer, name: str) -> str | None:
    """Until 2.19 the name is the description too."""
    if ctx.version < (2, 19):
        return name
    if body.description is UNSET:
        return None
    return description(body.description)


def description(text: str | None) -> str | None:
    """Raises Invalid."""
    if text is not None and (
        len(text) > 255 or not all(c.isprintable() or c in "\t\n" for c in text)
    ):
        raise checks.wrong("description", text, "It must be printable and at most 255 characters")
    return text


def _metadata(body: CreateServer) -> dict[str, str]:
    if len(body.metadata) > checks.METADATA_LIMIT:
        raise Forbidden(f"Maximum number of metadata items exceeds {checks.METADATA_LIMIT}")
    return checks.metadata(body.metadata)


def _user_data(body: CreateServer) -> str:
    return user_data(body.user_data)


def user_data(text: str | None) -> str:
    """Raises Invalid for what is not base64."""
    if text is None:
        return ""
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise checks.wrong("user_data", text, "It is not a 'base64'") from None
    return "".join(text.split())


def check_drive(server: Server) -> None:
    """A config drive holds text."""
    if not (server.config_drive and server.user_data):
        return
    try:
        base64.b64decode(server.user_data).decode()
    except UnicodeDecodeError:
        raise Invalid(
            "user_data must be UTF-8 text where there is a config drive; "
            "without one the metadata service gives it out as it is."
        ) from None


def _disk_config(text: str) -> str:
    if text and text not in _DISK_CONFIGS:
        raise checks.wrong("OS-DCF:diskConfig", text, f"It is not one of {list(_DISK_CONFIGS)}")
    return text


def disk_config(text: str) -> str:
    """Raises Invalid."""
    return _disk_config(text or " ")


async def _group(ctx: Context, hints: dict[str, Any]) -> str:
    """The server group that a hint names. Raises Invalid."""
    id = hints.get("group")
    if id is None:
        return ""
    if not isinstance(id, str) or not checks.is_uuid(id):
        raise checks.wrong("os:scheduler_hints/group", id, f"{id!r} is not a 'uuid'")
    group = await server_groups.group_of(ctx.runtime.store, id)
    if group is None or group.project_id != ctx.caller.project_id:
        raise server_groups.missing(id)
    return id


def _hints(ctx: Context) -> dict[str, Any]:
    """Kept and shown; those that name another's inside are refused."""
    for key in CreateServer.beside:
        if key in ctx.document:
            hints = ctx.document[key]
            if not isinstance(hints, dict):
                raise checks.wrong(key, hints, "It is not of type 'object'")
            _check_hints(hints)
            private = [k for k in hints if k.startswith("_") or k in _INTERNAL_HINTS]
            if private:
                raise Invalid(f"Scheduler hint {private[0]!r} is not one that a caller may give.")
            return hints
    return {}


def _check_hints(hints: dict[str, Any]) -> None:
    """Raises Invalid for what the scheduler could not read."""
    for key in ("different_host", "same_host"):
        ids = hints.get(key, [])
        if not all(checks.is_uuid(id) for id in (ids if isinstance(ids, list) else [ids])):
            raise checks.wrong(f"os:scheduler_hints/{key}", ids, f"{ids!r} is not a 'uuid'")
    near, size = hints.get("build_near_host_ip"), hints.get("cidr", "/24")
    if near is not None:
        try:
            ip_network(f"{ip_address(near)}{size}", strict=False)
        except ValueError:
            raise checks.wrong(
                "os:scheduler_hints/build_near_host_ip", near, f"{near}{size} is not a network"
            ) from None


_INTERNAL_HINTS = frozenset(("check_type", "requested_destination", "force_hosts", "force_nodes"))
