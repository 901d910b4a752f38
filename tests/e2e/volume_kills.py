"""Kill a cloud without warning while all that volumes can be asked for is asked: no acknowledged byte is lost.

Every volume, snapshot, backup and image is known by the numbers that were written to it and answered for; a block whose
write was not answered may have the old number or the new one. After each kill the books agree: what the API says, what
hosts hold and are serving, the files that control keeps, and what is charged.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Set
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pileus.cli.client import ApiError, Unreachable
from pileus.host.storage_daemon import running_below
from pileus.kernel.world import Clock
from pileus.testing.nbd import NbdClient, Refused
from pileus.testing.places import Place
from tests.e2e.kills import Victims, together
from tests.e2e.volume_books import Told, differences

SETTLE_S = 120
ROUND, ROOM, WINDOW_S = 8, 7, 0.4  # deeds, volumes, and the seconds in which the kill falls
BLOCK, APART, BLOCKS = 4096, 7 << 20, 64
_VERSION = {"OpenStack-API-Version": "volume 3.71"}
_REFUSED = (400, 404, 409, 503)  # it was busy, or gone, or its host was killed meanwhile
SENT = "sent"  # the name of images that we send bytes to
_SENT = 2  # blocks of an image that we send
_IMAGE = bytes((_SENT - 1) * APART + BLOCK)
Content = dict[int, set[int]]  # block -> the numbers that may be in it; 0 where nothing was written
Row = dict[str, Any]


class VolumeKiller:
    """`kept`: the content of each noun's things by their ids, None where its create was not answered for."""

    def __init__(self, victims: Victims, seed: int, *, real: bool) -> None:
        self.victims, self.real = victims, real
        self.random = random.Random(seed)
        self.client = victims.cloud.client()
        self.kept: dict[str, dict[str, Content | None]] = {
            noun: {} for noun in ("volumes", "snapshots", "backups", "images")
        }
        self.gone: set[str] = set()  # whose delete was asked for
        self.done, self.tried = Counter[str](), Counter[str]()
        self.kills = self.number = 0
        self.told = Told()

    def ask(self, method: str, path: str, body: object = None, service: str = "volume") -> Any:
        base = self.client.catalog[{"volume": "block-storage"}.get(service, service)]
        return self.client.send(method, base.rstrip("/") + path, body, _VERSION).json

    def prepare(self) -> None:
        self.victims.cloud.wait_for_image()
        names = ("volumes", "snapshots", "gigabytes", "backups", "backup_gigabytes")
        quota = {"quota_set": dict.fromkeys(names, -1)}
        self.ask("PUT", f"/os-quota-sets/{self.client.project_id}", quota)
        for _ in range(3):
            self._make({}, {})
        self.settle()

    # -- a round ---------------------------------------------------------------------------------

    def round(self) -> None:
        """Ask for this and that until the kill falls, a moment after so many deeds; then start again."""
        first, moment = self.random.randint(0, ROUND // 2), self.random.uniform(0, WINDOW_S)
        kill = threading.Timer(moment, self._kill, [self.random.random() < 0.5])
        self.busy: set[str] = set()
        with suppress(Unreachable):
            for n in range(ROUND):
                if n == first:
                    kill.start()
                self._any()
        if kill.ident is None:
            kill.start()
        kill.join()
        self.kills += 1
        self.victims.again()

    def _kill(self, everything: bool) -> None:
        """The cloud's processes, and those that serve volumes, or else these go on."""
        self.victims.kill(self.random)
        if everything:
            for pid in running_below(self.victims.hosts).values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _any(self) -> None:
        """Of what can be done now, what was never accepted so far, and of that what was tried least."""
        deeds = self._deeds()
        if not deeds:
            return
        self.random.shuffle(deeds)
        name, do = min(deeds, key=lambda deed: (self.done[deed[0]] > 0, self.tried[deed[0]]))
        self.tried[name] += 1
        try:
            do()
            self.done[name] += 1
        except ApiError as e:
            assert e.status in _REFUSED, (name, e)

    def _deeds(self) -> list[tuple[str, Callable[[], object]]]:
        found: list[tuple[str, Callable[[], object]]] = []
        free = {noun: self._free(noun) for noun in self.kept}
        if len(self.kept["volumes"]) < ROOM:
            found.append(("create", partial(self._make, {}, {})))
            for noun, source in (("volumes", "source_volid"), ("snapshots", "snapshot_id")):
                found += [
                    (f"of {noun}", partial(self._copy, noun, source, id)) for id in free[noun]
                ]
            found += [("restore", partial(self._restore, id)) for id in free["backups"]]
            small = [id for id in free["images"] if self.told.images[id]["size"] == len(_IMAGE)]
            found += [("of images", partial(self._of_image, id)) for id in small]
        if len(self.kept["images"]) < ROOM:
            found.append(("image", self._send_image))
        for id in free["volumes"]:
            if self.real:
                found += [("write", partial(self._write, id)), ("in use", partial(self._use, id))]
            else:
                found += [("migrate", partial(self._act, id, "os-migrate_volume", {"host": None}))]
            size = self.told.volumes[id]["size"] + 1
            if size < 5:
                found.append(("extend", partial(self._act, id, "os-extend", {"new_size": size})))
            found += [
                ("snapshot", partial(self._keep, "snapshots", "snapshot", id)),
                ("backup", partial(self._keep, "backups", "backup", id)),
                ("upload", partial(self._upload, id)),
            ]
        backed_up = {self.told.backups[id]["volume_id"] for id in free["backups"]}
        found += [
            ("increment", partial(self._keep, "backups", "backup", id, incremental=True))
            for id in free["volumes"]
            if id in backed_up
        ]
        for noun, ids in free.items():
            most = ROOM // 2 if noun == "volumes" else 3
            if len(self.kept[noun]) > most:
                found += [(f"delete {noun}", partial(self._delete, noun, id)) for id in ids]
        return found

    def _free(self, noun: str) -> list[str]:
        """Those that were there when we last looked and that nothing was asked of since."""
        there = self.told.of(noun)
        ids = there.keys() & self.kept[noun].keys() - self.busy
        whole = [id for id in sorted(ids) if self.told.whole(noun, id)]
        return [id for id in whole if there[id].get("volume_id") not in self.busy]

    def _make(self, body: Row, content: Content | None) -> None:
        made = self.ask("POST", "/volumes", {"volume": {"size": 1, "name": "kills", **body}})
        self.kept["volumes"][made["volume"]["id"]] = _copied(content)

    def _copy(self, noun: str, source: str, id: str) -> None:
        self._take(noun, id)
        self._make({source: id, "size": self.told.of(noun)[id]["size"]}, self.kept[noun][id])

    def _take(self, noun: str, id: str) -> None:
        """Nothing else is asked of it, or of the volume that it is of, in this round."""
        self.busy |= {id, self.told.of(noun)[id].get("volume_id", id)}

    def _keep(self, noun: str, root: str, id: str, **more: Any) -> None:
        self._take("volumes", id)
        body = {root: {"volume_id": id, "force": True, "name": "kills", **more}}
        made = self.ask("POST", f"/{noun}", body)[root]["id"]
        self.kept[noun][made] = _copied(self.kept["volumes"][id])

    def _restore(self, id: str) -> None:
        self._take("backups", id)
        restored = self.ask("POST", f"/backups/{id}/restore", {"restore": {"name": "kills"}})
        self.kept["volumes"][restored["restore"]["volume_id"]] = _copied(self.kept["backups"][id])

    def _act(self, id: str, action: str, body: Row) -> Any:
        self._take("volumes", id)
        return self.ask("POST", f"/volumes/{id}/action", {action: body})

    def _upload(self, id: str) -> None:
        body = {"image_name": "kills", "disk_format": "raw"}
        image = self._act(id, "os-volume_upload_image", body)["os-volume_upload_image"]
        self.kept["images"][image["image_id"]] = _copied(self.kept["volumes"][id])

    def _send_image(self) -> None:
        """Bytes of our own; not answered for, they are there as a whole or not at all."""
        body = {"name": SENT, "disk_format": "raw", "container_format": "bare"}
        id = str(self.ask("POST", "/v2/images", body, service="image")["id"])
        self.busy.add(id)
        content, data = Content(), bytearray(_IMAGE)
        for block in range(_SENT):
            self.number += 1
            content[block] = {self.number}
            data[block * APART : block * APART + BLOCK] = _block(self.number)
        self.kept["images"][id] = content
        self.gone.add(id)
        url = self.client.catalog["image"].rstrip("/") + f"/v2/images/{id}/file"
        self.client.send("PUT", url, bytes(data), {"Content-Type": "application/octet-stream"})
        self.gone.discard(id)

    def _of_image(self, id: str) -> None:
        self._take("images", id)
        self._make({"imageRef": id}, self.kept["images"][id] if self.real else None)

    def _delete(self, noun: str, id: str) -> None:
        """Answered or not, it may be gone from now on."""
        self._take(noun, id)
        self.gone.add(id)
        if noun == "volumes":
            self.gone.update(s for s, row in self.told.snapshots.items() if row["volume_id"] == id)
        if noun == "images":
            self.ask("DELETE", f"/v2/images/{id}", service="image")
        else:
            self.ask("DELETE", f"/{noun}/{id}{'?cascade=true' if noun == 'volumes' else ''}")

    # -- as a guest --------------------------------------------------------------------------------

    def _attach(self, id: str) -> Row:
        """Served to its own host."""
        host = self.told.volumes[id]["os-vol-host-attr:host"].partition("@")[0]
        body = {"volume_uuid": id, "mode": "rw", "connector": {"host": host}}
        return dict(self.ask("POST", "/attachments", {"attachment": body})["attachment"])

    def _detach(self, attachment: Row) -> None:
        self.ask("DELETE", f"/attachments/{attachment['id']}")

    def _write(self, id: str) -> None:
        self._take("volumes", id)
        one = self._attach(id)
        self._put(one, id, 6)
        self._detach(one)

    def _use(self, id: str) -> None:
        """Grown, kept and copied while it is written."""
        self._take("volumes", id)
        size = self.told.volumes[id]["size"] + 1
        one = self._attach(id)
        self._put(one, id, 3)
        for name, ask in (
            ("extend", partial(self._act, id, "os-extend", {"new_size": size})),
            ("snapshot", partial(self._keep, "snapshots", "snapshot", id)),
        ):
            with suppress(ApiError):
                ask()
                self.done[f"{name} in use"] += 1
            self._put(one, id, 3, self.kept["snapshots"])
        self._detach(one)

    def _put(
        self, one: Row, id: str, count: int, later: dict[str, Content | None] | None = None
    ) -> None:
        """`later`: what is being taken of it, and may have these writes or not."""
        info, content = one["connection_info"], self.kept["volumes"][id]
        if content is None:
            return
        newest = [
            c for s, c in (later or {}).items() if s not in self.told.snapshots and c is not None
        ]
        with suppress(OSError, Refused), NbdClient(info["path"], info["name"]) as guest:
            for block in self.random.sample(range(BLOCKS), count):
                self.number += 1
                for known in (content, *newest):
                    known[block] = known.get(block, {0}) | {self.number}
                guest.write(block * APART, _block(self.number))
                content[block] = {self.number}

    def _read(self, id: str) -> dict[int, int]:
        one = self._attach(id)
        info = one["connection_info"]
        with NbdClient(info["path"], info["name"]) as guest:
            found = {n: _number(guest.read(n * APART, BLOCK)) for n in range(BLOCKS)}
        self._detach(one)
        return found

    # -- what must hold ----------------------------------------------------------------------------

    def look(self) -> Told:
        def rows(noun: str) -> dict[str, Row]:
            found = self.ask("GET", f"/{noun}/detail?all_tenants=1&limit=1000")[noun]
            return {row["id"]: row for row in found}

        images = self.ask("GET", "/v2/images?limit=1000", service="image")["images"]
        return Told(
            volumes=rows("volumes"),
            snapshots=rows("snapshots"),
            backups=rows("backups"),
            attachments=rows("attachments"),
            images={row["id"]: row for row in images if row["name"] in ("kills", SENT)},
            stored={row["id"] for row in images if row["status"] == "active"},
            limits=self.ask("GET", "/limits")["limits"]["absolute"],
        )

    def settle(self) -> None:
        """Until nothing is busy; what nobody is attached with any more is let go."""
        asyncio.run(self._settled())

    async def _settled(self) -> None:
        clock = Clock()
        deadline = clock.monotonic() + SETTLE_S
        while True:
            self.told = self.look()
            for one in self.told.attachments.values():
                with suppress(ApiError):
                    self._detach(one)
            for id, row in self.told.images.items():
                # Who would have sent it is gone.
                if (row["name"], row["status"]) == (SENT, "queued"):
                    self.ask("DELETE", f"/v2/images/{id}", service="image")
            busy = [*self.told.busy(), *self.told.attachments]
            if not busy:
                return
            assert clock.monotonic() < deadline, f"still busy after {SETTLE_S} s: {busy}"
            await clock.sleep(0.1)

    def check(self) -> None:
        self.settle()
        for noun, kept in self.kept.items():
            there = self.told.of(noun)
            lost = kept.keys() - there.keys() - self.gone
            assert not lost, f"{noun} acknowledged and lost: {sorted(lost)}"
            for id in there.keys() - kept.keys():  # its create was not answered for
                kept[id] = None
            for id in kept.keys() - there.keys():
                del kept[id]
            failed = {id: there[id]["status"] for id in kept if not self.told.whole(noun, id)}
            assert not failed, f"{noun} that failed: {failed}, {self._messages()}"
        self.compare()
        self.read_images()
        if self.real:
            self.read_volumes()

    def _messages(self) -> list[str]:
        said = self.ask("GET", "/messages")["messages"]
        return [f"{m['resource_uuid']}: {m['user_message']}" for m in said]

    def compare(self) -> None:
        """Hosts and control's files follow the API at a small distance."""

        async def compared() -> list[str]:
            for _ in range(300):
                found = differences(self.victims.images, self.victims.hosts, self.told, self.real)
                if not found:
                    break
                await Clock().sleep(0.1)
                self.told = self.look()
            return found

        assert (found := asyncio.run(compared())) == [], found

    def read_volumes(self) -> None:
        for id, content in self.kept["volumes"].items():
            if content is not None:
                self._same(f"volume {id}", self._read(id), content)
        self.settle()

    def read_images(self) -> None:
        for id, content in self.kept["images"].items():
            if content is not None:
                with (self.victims.images / "images" / id).open("rb") as file:
                    found = {n: _number(os.pread(file.fileno(), BLOCK, n * APART)) for n in content}
                self._same(f"image {id}", found, content)

    def _same(self, what: str, found: dict[int, int], content: Content) -> None:
        """What was read is what stays."""
        for block, number in found.items():
            allowed = content.get(block, {0})
            assert number in allowed, f"{what}: block {block} has {number}, not one of {allowed}"
            content[block] = {number}

    def clear(self) -> None:
        """What snapshots and backups keep is read; when all is deleted nothing is left."""
        for noun, source in (("snapshots", "snapshot_id"), ("backups", "backup_id")):
            for id, content in list(self.kept[noun].items()):
                self._make({source: id, "size": self.told.of(noun)[id]["size"]}, content)
        self.check()
        while self.kept["backups"]:
            children = [id for id, row in self.told.backups.items() if row["is_incremental"]]
            for id in [*reversed(children), *self.told.backups]:
                with suppress(ApiError):
                    self._delete("backups", id)
            self.check()
        for noun in ("volumes", "images"):
            for id in self.told.of(noun):
                self._delete(noun, id)
        self.check()
        assert not any(self.kept.values()), self.kept


def _block(number: int) -> bytes:
    return struct.pack(">Q", number) * (BLOCK // 8)


def _number(data: bytes) -> int:
    """-1 for a block that is not of one piece."""
    (number,) = struct.unpack(">Q", data[:8])
    return int(number) if data == data[:8] * (BLOCK // 8) else -1


def _copied(content: Content | None) -> Content | None:
    return None if content is None else {block: set(some) for block, some in content.items()}


def survive(
    state: Path,
    seed: int,
    rounds: int,
    outside: Place | None = None,
    wanted: Set[str] = frozenset(),
) -> VolumeKiller:
    """So many kills at seeded moments; everything holds after each and at the end. With an `outside` bytes are real.

    Up to as many more until all that is `wanted` was accepted once: a kill may take what a deed would have needed.
    """
    driver = "container" if outside else "fake"
    with together(state, driver, [], outside) as victims:
        killer = VolumeKiller(victims, seed, real=outside is not None)
        killer.prepare()
        while killer.kills < rounds or (killer.kills < 2 * rounds and wanted - killer.done.keys()):
            killer.round()
            killer.check()
        killer.clear()
    done = ", ".join(f"{name} {n}" for name, n in sorted(killer.done.items()))
    sys.stdout.write(f"seed {seed}: {killer.kills} kills; accepted: {done}\n")
    return killer
