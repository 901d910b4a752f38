"""The walk again with control and host apart: an ordinary user's process, root's process, PostgreSQL and NATS."""

from __future__ import annotations

from pathlib import Path

from pileus.testing.roles import two_roles
from tests.e2e.shell import Shell
from tests.e2e.test_cli_walk import (
    add_image,
    boot,
    clear_up,
    lay_network,
    look_around,
    stop_start_and_reboot,
)


def test_the_walk_works_with_control_and_host_apart(tmp_path: Path) -> None:
    with two_roles(tmp_path) as cloud:
        cloud.wait_for_image()
        shell = Shell(cloud, "two_roles")
        look_around(shell)
        add_image(shell, tmp_path)
        lay_network(shell)
        address = boot(shell, tmp_path)
        stop_start_and_reboot(shell)
        clear_up(shell, address)
