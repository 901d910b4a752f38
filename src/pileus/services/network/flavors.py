"""Flavors of services and the profiles behind them (API reference: networking-flavors-framework)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Tx

from .attributes import Attributes, changes_of
from .plain import Plain
from .refusals import missing
from .resource import ADMIN, COLUMNS, Noun, Nouns, kept_by, listing, sifted
from .router import ROUTERS

ROUTER_SERVICE = "L3_ROUTER_NAT"
PROVIDER = {"service_type": ROUTER_SERVICE, "name": "pileus", "default": True}
_SERVICES = (ROUTER_SERVICE, "FLAVORS")


class ServiceProfile(Noun, kw_only=True, frozen=True):
    enabled: bool = True
    driver: str = ""
    metainfo: str = ""


class Flavor(Noun, kw_only=True, frozen=True):
    enabled: bool = True
    service_type: str
    service_profiles: list[str] = []


SERVICE_PROFILES = Nouns[ServiceProfile](
    "network_service_profiles",
    ServiceProfile,
    columns=(*COLUMNS, "enabled", "driver", "metainfo"),
    noun="Service profile",
).worded("ServiceProfileNotFound", "Service Profile {id} could not be found.")
FLAVORS = Nouns[Flavor](
    "network_flavors", Flavor, columns=(*COLUMNS, "enabled", "service_type"), noun="Flavor"
).worded("FlavorNotFound", "Flavor {id} could not be found.")


class CreateServiceProfile(Attributes):
    root: ClassVar[str] = "service_profile"
    fixed = frozenset({"id"})

    description: str = ""
    enabled: bool = True
    driver: str = ""
    metainfo: str = ""
    project_id: str | UnsetType = UNSET


class CreateFlavor(Attributes):
    root: ClassVar[str] = "flavor"
    fixed = frozenset({"id"})

    service_type: str
    name: str = ""
    description: str = ""
    enabled: bool = True
    service_profiles: list[str] = []
    project_id: str | UnsetType = UNSET


class ServiceProfileRef(Attributes):
    root: ClassVar[str] = "service_profile"
    creates = False

    id: str
    project_id: str | UnsetType = UNSET


class ServiceProfiles(
    Plain[ServiceProfile],
    path="/service_profiles",
    create=CreateServiceProfile,
    update=changes_of(CreateServiceProfile),
):
    table = SERVICE_PROFILES
    noun = "service_profile"
    plural = "service_profiles"
    id_param = "service_profile_id"
    see = "get_service_profile"
    rules = kept_by(ADMIN, "service_profile", readers=ADMIN)
    listing = listing(("driver", "metainfo"), False, enabled=Filter(kind=bool))

    def view(self, ctx: Context, record: ServiceProfile) -> dict[str, Any]:
        names = ("id", "description", "enabled", "driver", "metainfo")
        return {n: getattr(record, n) for n in names}

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: ServiceProfile | None
    ) -> dict[str, Any]:
        if old is None and not given.get("driver") and not given.get("metainfo"):
            raise Invalid(
                "Service Profile needs either a driver or metainfo.", code="ServiceProfileEmpty"
            )
        if given.get("driver"):
            raise missing(
                "ServiceProfileDriverNotFound",
                f"Service Profile driver {given['driver'][:80]} could not be found.",
            )
        return given

    async def leave(self, tx: Tx, record: ServiceProfile) -> None:
        if any(record.id in f.service_profiles for f in await FLAVORS.all(tx)):
            raise Conflict(
                f"Service Profile {record.id} is used by some service instance.",
                code="ServiceProfileInUse",
            )


class Flavors(
    Plain[Flavor],
    path="/flavors",
    create=CreateFlavor,
    update=changes_of(CreateFlavor, "service_type"),
):
    table = FLAVORS
    noun = "flavor"
    plural = "flavors"
    id_param = "flavor_id"
    see = "get_flavor"
    rules = kept_by(ADMIN, "flavor", readers="role:reader") | {
        "create_flavor_service_profile": ADMIN,
        "delete_flavor_service_profile": ADMIN,
    }
    listing = listing(("service_type",), False, enabled=Filter(kind=bool))

    def scopes_of(self, ctx: Context) -> tuple[dict[str, Any], ...]:
        return ()

    def view(self, ctx: Context, record: Flavor) -> dict[str, Any]:
        names = ("id", "name", "description", "enabled", "service_type", "service_profiles")
        return {n: getattr(record, n) for n in names}

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: Flavor | None
    ) -> dict[str, Any]:
        if old is None and given["service_type"] not in _SERVICES:
            raise Invalid(
                f"Invalid service type '{given['service_type'][:40]}'; use one of {list(_SERVICES)}."
            )
        for id in given.get("service_profiles", ()):
            await SERVICE_PROFILES.get(ctx.runtime.store, id)
        return given

    async def leave(self, tx: Tx, record: Flavor) -> None:
        if await ROUTERS.one(tx, flavor_id=record.id) is not None:
            raise Conflict(
                f"Flavor {record.id} is used by some service instance.", code="FlavorInUse"
            )

    @operation("POST", "/flavors/{flavor_id}/service_profiles", "create_flavor_service_profile", status=201)  # fmt: skip
    async def attach(self, ctx: Context, flavor: Flavor, body: ServiceProfileRef) -> Any:
        profile = await SERVICE_PROFILES.get(ctx.runtime.store, body.id)
        if profile.id in flavor.service_profiles:
            raise Conflict(
                f"Service Profile {profile.id} is already associated with flavor {flavor.id}.",
                code="FlavorServiceProfileBindingExists",
            )
        await self.write(ctx, flavor, {"service_profiles": [*flavor.service_profiles, profile.id]})
        return {"service_profile": {"id": profile.id}}

    @operation("DELETE", "/flavors/{flavor_id}/service_profiles/{profile_id}", "delete_flavor_service_profile")  # fmt: skip
    async def detach(self, ctx: Context, flavor: Flavor, profile_id: str) -> None:
        left = [p for p in flavor.service_profiles if p != profile_id]
        if len(left) == len(flavor.service_profiles):
            raise missing(
                "FlavorServiceProfileBindingNotFound",
                f"Service Profile {profile_id[:64]} is not associated with flavor {flavor.id}.",
            )
        await self.write(ctx, flavor, {"service_profiles": left})


class ServiceProviders(Resource[Any]):
    rules = {"get_service_provider": "role:reader"}

    @operation("GET", "/service-providers", "get_service_provider")
    async def index(self, ctx: Context) -> Any:
        return {"service_providers": sifted(ctx, [PROVIDER], "service_type", "name", "default")}
