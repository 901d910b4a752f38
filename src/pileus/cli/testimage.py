"""`make setup` builds the test images and fetches noVNC once; later runs find them in the user's cache."""

from __future__ import annotations

import asyncio
import sys

import click

from pileus.host import caches, novnc, testroot
from pileus.host.process import ProcessFailed
from pileus.host.testimage import build


def main() -> int:
    try:
        asyncio.run(testroot.build(caches.testroot()))
        asyncio.run(build(caches.testimage(), lambda text: click.echo(f"    {text}")))
    except ProcessFailed as e:
        click.echo(
            f"the test image could not be built: {e}\n"
            "It is made from Debian packages: does `apt-get download busybox` work? "
            "`make up DRIVER=fake` needs no image.",
            err=True,
        )
        return 1
    try:
        if not caches.novnc().exists():
            asyncio.run(novnc.fetch(caches.novnc()))
    except ProcessFailed as e:
        click.echo(f"    screens of guests will not show in a browser without noVNC: {e}", err=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
