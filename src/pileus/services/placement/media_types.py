"""What placement's API is spoken in: JSON, which `Accept` must allow and `Content-Type` must say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pileus.kernel.faults import Invalid, NotAcceptable, Unsupported
from pileus.kernel.resources import Context, Operation, Resource, Stream
from pileus.kernel.store import Record

R = TypeVar("R", bound=Record)
JSON = "application/json"
_TAKEN = frozenset(
    ("", "*/*", "application/*", JSON)
)  # what an Accept may say so that JSON will do
_WORDS = (
    ("Invalid input for field/attribute body.", "JSON does not validate:"),
    ("Invalid input for field/attribute", "JSON does not validate:"),
    ("Malformed request body: it must be", "JSON does not validate: it must be"),
    ("Malformed request body", "Malformed JSON"),
)


class JsonResource(Resource[R]):
    """Looks at the media types before anything else, and tells of a wrong body as placement does."""

    async def call(
        self,
        ctx: Context,
        op: Operation,
        params: Mapping[str, str],
        raw: bytes,
        stream: Stream | None,
    ) -> Any:
        if ctx.method == "GET":
            _require_accepted(ctx.headers.get("accept", ""))
        else:
            sent = bool(raw) or (stream is not None and stream.length > 0)
            _require_json(ctx, sent=sent, wanted=op.body is not None or stream is not None)
        try:
            return await super().call(ctx, op, params, raw, stream)
        except Invalid as wrong:
            for kernels, ours in _WORDS:
                if wrong.message.startswith(kernels):
                    wrong.message = ours + wrong.message.removeprefix(kernels)
            raise


def _require_accepted(accept: str) -> None:
    for part in accept.split(","):
        kind, _, quality = part.replace(" ", "").lower().partition(";q=")
        if kind.partition(";")[0] in _TAKEN and quality not in ("0", "0.0", "0.00", "0.000"):
            return
    raise NotAcceptable(f"Only {JSON} is provided, not {accept}.")


def _require_json(ctx: Context, *, sent: bool, wanted: bool) -> None:
    kind = ctx.headers.get("content-type", "")
    if sent and not kind:
        raise Invalid("content-type header required when content-length > 0")
    if wanted and kind.partition(";")[0].strip().lower() != JSON:
        raise Unsupported(f"The media type {kind or None} is not supported, use {JSON}")
