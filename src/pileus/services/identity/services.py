"""Services of the catalog: https://docs.openstack.org/api-ref/identity/v3/#service-catalog-and-endpoints"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel.query import Filter
from pileus.kernel.resources import Context

from .catalog import REVISION, SERVICES, CatalogService
from .kept import Kept, changing
from .wire import NounBody, listing


class CreateService(NounBody, kw_only=True):
    root: ClassVar[str] = "service"
    type: Annotated[str, Meta(min_length=1, max_length=255)]
    name: Annotated[str, Meta(max_length=255)] = ""
    description: str | None = None
    enabled: bool = True


class Services(Kept[CatalogService]):
    table = SERVICES
    path = "services"
    id_param = "service_id"
    creates, updates = CreateService, changing(CreateService)
    hidden = ("provided",)
    revises = REVISION
    listing = listing({"type": Filter(), "name": Filter()})

    @classmethod
    def view(cls, ctx: Context, record: CatalogService) -> dict[str, Any]:
        shown = super().view(ctx, record)
        if record.description is None:
            del shown["description"]
        return shown
