"""The files of noVNC, which show a guest's screen in a browser: taken out of Debian's package, which wants Node.js."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from pileus.host.process import run

_INSIDE = "usr/share/novnc"


async def fetch(destination: Path) -> None:
    """To a folder that is not there. Raises ProcessFailed when the package cannot be fetched."""
    with tempfile.TemporaryDirectory(dir=destination.parent) as name:
        folder = Path(name)
        os.chmod(folder, 0o777)  # apt fetches as a user of its own
        await run(["apt-get", "download", "-qq", "novnc"], cwd=folder, timeout_s=600)
        (deb,) = (name for name in os.listdir(folder) if name.endswith(".deb"))
        await run(["dpkg-deb", "-x", deb, "x"], cwd=folder, timeout_s=120)
        await asyncio.to_thread(shutil.move, folder / "x" / _INSIDE, destination)
