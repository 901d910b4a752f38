"""Members: projects with which an image is shared, and whether they take it. Image API v2, "Sharing"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, TooLarge
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import IGNORE, Body

from . import attributes
from .images.operations import ImageResource
from .record import ADMIN_OR_OWNER, IMAGES, Image, Membership, seconds

_STATUSES = ("pending", "accepted", "rejected")
_SEEN = (
    "rule:context_is_admin or role:reader and "
    "(project_id:%(project_id)s or project_id:%(member_id)s)"
)


class AddMember(Body):
    lax = False
    unknown = IGNORE
    member: Annotated[str, Meta(max_length=255)]


class ChangeMember(Body):
    lax = False
    unknown = IGNORE
    status: str


class ImageMembers(ImageResource):
    rules = {
        "add_member": ADMIN_OR_OWNER,
        "delete_member": ADMIN_OR_OWNER,
        "get_member": _SEEN,
        "get_members": _SEEN,
        "modify_member": ("rule:context_is_admin or (role:member and project_id:%(member_id)s)"),
    }

    @operation("POST", "/images/{image_id}/members", "add_member")
    async def create(self, ctx: Context, image: Image, body: AddMember) -> Any:
        _require_shared(image)
        if not body.member:
            raise Invalid("Member can't be empty")
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            if body.member in image.members:
                raise Conflict(f"Member {body.member} is duplicated for image {image.id}")
            if len(image.members) >= attributes.LIMIT:
                raise TooLarge(
                    f"Image member limit exceeded for image {image.id}: "
                    f"it may have {attributes.LIMIT} members."
                )
            made = Membership(created_at=tx.now, updated_at=tx.now)
            image = await _write(tx, image, {**image.members, body.member: made})
        return _view(image, body.member)

    @operation("GET", "/images/{image_id}/members", "get_members")
    async def index(self, ctx: Context, image: Image) -> Any:
        _require_shared(image)
        shown = [_view(image, m) for m in image.members if self._allows(ctx, image, m)]
        return {"members": shown, "schema": "/v2/schemas/members"}

    @operation("GET", "/images/{image_id}/members/{member_id}", "get_member")
    async def show(self, ctx: Context, image: Image, member_id: str) -> Any:
        if image.visibility != "shared":
            raise NotFound("Only shared images have members.")
        self._require_member(ctx, image, member_id)
        return _view(image, member_id)

    @operation("PUT", "/images/{image_id}/members/{member_id}", "get_member")
    async def update(self, ctx: Context, image: Image, member_id: str, body: ChangeMember) -> Any:
        """A member says whether it takes the image; the owner may not say it for him."""
        _require_shared(image)
        self._require_member(ctx, image, member_id)
        ctx.require("modify_member", self._of(ctx, image, member_id))
        if body.status not in _STATUSES:
            raise Invalid(
                f"Incorrect request: status must be one of {', '.join(_STATUSES)}, not {body.status}"
            )
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            if member_id not in image.members:
                raise _missing(image, member_id)
            changed = msgspec.structs.replace(
                image.members[member_id], status=body.status, updated_at=tx.now
            )
            image = await _write(tx, image, {**image.members, member_id: changed})
        return _view(image, member_id)

    @operation("DELETE", "/images/{image_id}/members/{member_id}", "delete_member")
    async def delete(self, ctx: Context, image: Image, member_id: str) -> None:
        _require_shared(image)
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            if member_id not in image.members:
                raise _missing(image, member_id)
            rest = {p: m for p, m in image.members.items() if p != member_id}
            await _write(tx, image, rest)

    def _of(self, ctx: Context, image: Image, member_id: str) -> Mapping[str, object]:
        """What policy may ask of one membership."""
        return {**self.target(ctx, image), "member_id": member_id}

    def _allows(self, ctx: Context, image: Image, member_id: str) -> bool:
        return ctx.allows("get_member", self._of(ctx, image, member_id))

    def _require_member(self, ctx: Context, image: Image, member_id: str) -> None:
        if member_id not in image.members or not self._allows(ctx, image, member_id):
            raise _missing(image, member_id)


async def _write(tx: Any, image: Image, members: dict[str, Membership]) -> Image:
    """Sharing is not a change of the image itself, so its time of change stays."""
    return await IMAGES.change(tx, image, members=members, updated_at=image.updated_at)


def _require_shared(image: Image) -> None:
    if image.visibility != "shared":
        raise Forbidden("Only shared images have members.")


def _missing(image: Image, member_id: str) -> NotFound:
    return NotFound(f"{member_id} not found in the member list of the image {image.id}.")


def _view(image: Image, member_id: str) -> dict[str, Any]:
    member = image.members[member_id]
    return {
        "member_id": member_id,
        "image_id": image.id,
        "status": member.status,
        "created_at": seconds(member.created_at),
        "updated_at": seconds(member.updated_at),
        "schema": "/v2/schemas/member",
    }
