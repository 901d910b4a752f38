"""Runs the stories in `stories/*.yaml`: what there is, what is asked in turn, and what must come of it.

A story has a sentence (`story`), what is there (`given`) and `steps`. `given` has a line for each provider, indented
below its parent: `name CLASS=total +TRAIT @aggregate`; a total may be followed by `(max_unit=2,min_unit=1)`. A step asks
(`do`, at version `at`, sending `send`, text as it is, with the headers `with`) or lets a consumer `take` what it shall
hold (`of`, as `host VCPU=1 + disk DISK_GB=2`), who is at `generation`, and says what comes: `status` (else any 2xx), the `code` and a part of the text
of an error (`says`), a part of the `body`, `headers`, and for allocation candidates all of them (`candidates`, as
`host VCPU=1 + disk DISK_GB=2`), which groups their providers serve (`served`) and whose summaries are shown
(`summaries`). `$name` is the UUID that goes by that name.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pileus.kernel.auth import Caller
from pileus.services.placement import SERVICE
from pileus.services.placement.tests.given import check_books, code_of
from pileus.testing.alone import alone
from pileus.testing.client import Client, Reply

_STORIES = Path(__file__).parent / "stories"
_STOCK = re.compile(r"([A-Z0-9_]+)=(\d+)(?:\(([^)]*)\))?")
_NAME = re.compile(r"\$([a-z0-9_]+)")
_LATEST = "1.39"


class _Loader(yaml.SafeLoader):
    """Numbers with a point stay text, or version 1.10 would be 1.1."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, match) for tag, match in found if tag != "tag:yaml.org,2002:float"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def stories() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(_STORIES.glob("*.yaml")):
        for story in yaml.load(path.read_text("utf-8"), _Loader):
            yield f"{path.stem}: {story['story']}", story


def id_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _known(value: Any) -> Any:
    """The same with each `$name` replaced, in keys too."""
    if isinstance(value, str):
        return _NAME.sub(lambda m: id_of(m[1]), value)
    if isinstance(value, list):
        return [_known(v) for v in value]
    if isinstance(value, dict):
        return {_known(str(k)): _known(v) for k, v in value.items()}
    return value


async def tell(story: dict[str, Any]) -> None:
    async with alone(SERVICE) as cloud:
        roles = frozenset(("admin", "service"))
        operator = Caller(user_id="ops", project_id="ops", roles=roles, expires_at=float("inf"))
        client = cloud.introduce("ops", operator)
        await _prepare(client, story.get("given", ""))
        for n, step in enumerate(story["steps"], 1):
            reply = await (_take(client, step) if "take" in step else _ask(client, step))
            _check(f"step {n}, {step.get('do') or step['take']}: {reply}", reply, step)
        await check_books(cloud)


async def _ask(client: Client, step: dict[str, Any]) -> Reply:
    method, url = step["do"].split(" ", 1)
    headers = {"openstack-api-version": f"placement {step.get('at', _LATEST)}"}
    headers |= step.get("with", {})
    sent = _known(step["send"]) if "send" in step else None
    raw = sent.encode() if isinstance(sent, str) else None
    path = f"/placement{_known(url)}"
    return await client.request(method, path, sent, headers=headers, raw=raw)


async def _take(client: Client, step: dict[str, Any]) -> Reply:
    """Says all that the version asks for, and no more."""
    at, held = step.get("at", _LATEST), _told(step["of"]) if step["of"] else {}
    minor = int(at.removeprefix("1."))
    body: dict[str, Any] = {"allocations": {id: {"resources": a} for id, a in held.items()}}
    if minor < 12:
        body["allocations"] = [
            {"resource_provider": {"uuid": id}, "resources": a} for id, a in held.items()
        ]
    for since, key, value in (
        (8, "project_id", "p"),
        (8, "user_id", "u"),
        (28, "consumer_generation", step.get("generation")),
        (38, "consumer_type", "INSTANCE"),
    ):
        if minor >= since:
            body[key] = value
    url = f"/placement/allocations/{id_of(step['take'])}"
    headers = {"openstack-api-version": f"placement {at}"}
    return await client.request("PUT", url, body, headers=headers)


async def _prepare(client: Client, given: str) -> None:
    above: list[tuple[int, str]] = []
    for line in filter(str.strip, given.splitlines()):
        depth = len(line) - len(line.lstrip())
        name, *words = line.split()
        while above and above[-1][0] >= depth:
            above.pop()
        await _provide(client, name, above[-1][1] if above else "", words)
        above.append((depth, name))


async def _provide(client: Client, name: str, parent: str, words: list[str]) -> None:
    url = f"/placement/resource_providers/{id_of(name)}"
    stocks = {m[1]: _stock(m) for w in words if (m := _STOCK.fullmatch(w))}
    traits = [w[1:] for w in words if w.startswith("+")]
    groups = [id_of(w[1:]) for w in words if w.startswith("@")]
    assert len(stocks) + len(traits) + len(groups) == len(words), words
    made = {"name": name, "uuid": id_of(name)}
    if parent:
        made["parent_provider_uuid"] = id_of(parent)
    await _must(client, "POST", "/placement/resource_providers", made)
    for kind, names in (("resource_classes", stocks), ("traits", traits)):
        for custom in (n for n in names if n.startswith("CUSTOM_")):
            await _must(client, "PUT", f"/placement/{kind}/{custom}")
    at = {"resource_provider_generation": 0}
    for kind, value in (("inventories", stocks), ("traits", traits), ("aggregates", groups)):
        if value:
            await _must(client, "PUT", f"{url}/{kind}", {kind: value, **at})
            at = {"resource_provider_generation": at["resource_provider_generation"] + 1}


def _stock(match: re.Match[str]) -> dict[str, Any]:
    more = (part.split("=") for part in (match[3] or "").split(",") if part)
    return {"total": int(match[2]), **{k: float(v) if "." in v else int(v) for k, v in more}}


async def _must(client: Client, method: str, url: str, document: Any = None) -> None:
    version = {"openstack-api-version": f"placement {_LATEST}"}
    reply = await client.request(method, url, document, headers=version)
    assert reply.status < 300, (method, url, reply)


def _check(where: str, reply: Reply, step: dict[str, Any]) -> None:
    if "status" in step:
        assert reply.status == step["status"], where
    else:
        assert reply.status < 300, where
    if "code" in step:
        assert code_of(reply) == step["code"], where
    if "says" in step:
        assert _known(step["says"]) in reply.json["errors"][0]["detail"], where
    for name, value in _known(step.get("headers", {})).items():
        assert reply.headers.get(name) == value, where
    if "body" in step:
        _within(_known(step["body"]), reply.json, where)
    if "candidates" in step:
        found = [_amounts(one["allocations"]) for one in reply.json["allocation_requests"]]
        assert _sorted(found) == _sorted(map(_told, step["candidates"])), where
    if "served" in step:
        served = [one["mappings"] for one in reply.json["allocation_requests"]]
        wanted = [{s: [id_of(n) for n in ns] for s, ns in o.items()} for o in step["served"]]
        assert sorted(map(repr, map(_ordered, served))) == sorted(
            map(repr, map(_ordered, wanted))
        ), where
    if "summaries" in step:
        assert set(reply.json["provider_summaries"]) == {id_of(n) for n in step["summaries"]}, where


def _within(wanted: Any, found: Any, where: str) -> None:
    """Objects may have more than is wanted; everything else is equal."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        for key, value in wanted.items():
            assert key in found, (key, where)
            _within(value, found[key], where)
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
        assert len(wanted) == len(found), where
        for one, other in zip(wanted, found, strict=True):
            _within(one, other, where)
    else:
        assert found == wanted, where


def _amounts(allocations: Any) -> dict[str, dict[str, int]]:
    if isinstance(allocations, list):  # before 1.12
        return {a["resource_provider"]["uuid"]: a["resources"] for a in allocations}
    return {provider: one["resources"] for provider, one in allocations.items()}


def _told(text: str) -> dict[str, dict[str, int]]:
    found = {}
    for part in text.split(" + "):
        name, *amounts = part.split()
        found[id_of(name)] = {c: int(n) for c, n in (a.split("=") for a in amounts)}
    return found


def _ordered(served: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    return sorted((suffix, sorted(ids)) for suffix, ids in served.items())


def _sorted(found: Any) -> list[list[tuple[str, list[tuple[str, int]]]]]:
    return sorted(sorted((p, sorted(a.items())) for p, a in one.items()) for one in found)
