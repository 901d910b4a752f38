"""`make setup` builds the test image once; later runs find it in the user's cache."""

from __future__ import annotations

import asyncio
import sys

import click

from pileus.host import caches
from pileus.host.process import ProcessFailed
from pileus.host.testimage import build


def main() -> int:
    path = caches.testimage()
    try:
        asyncio.run(build(path, lambda text: click.echo(f"    {text}")))
    except ProcessFailed as e:
        click.echo(
            f"the test image could not be built: {e}\n"
            "It is made from Debian packages: does `apt-get download busybox` work? "
            "`make up DRIVER=fake` needs no image.",
            err=True,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
