"""The walk again with control and host apart: an ordinary user's process, root's process, PostgreSQL and NATS.

With QEMU the host has a network of its own: control, PostgreSQL and NATS are reached over a veth pair, and its outer network
is a third namespace.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pileus.testing.places import need_root, place
from pileus.testing.roles import two_roles
from tests.e2e.shell import Shell, until
from tests.e2e.sweep import Scope, processes, sweep
from tests.e2e.test_cli_walk import (
    add_image,
    boot,
    clear_up,
    is_,
    lay_network,
    log_in,
    look_around,
    stop_start_and_reboot,
)


def test_the_walk_works_with_control_and_host_apart(tmp_path: Path) -> None:
    with two_roles(tmp_path) as roles:
        roles.cloud.wait_for_image()
        shell = Shell(roles.cloud, "two_roles")
        look_around(shell)
        add_image(shell, tmp_path)
        lay_network(shell)
        address = boot(shell, tmp_path)
        stop_start_and_reboot(shell)
        clear_up(shell, address)


@pytest.mark.e2e
def test_a_guest_of_a_host_apart_can_be_reached_and_leaves_nothing(tmp_path: Path) -> None:
    need_root()
    with place() as machine, place() as outside:
        scope = Scope(tmp_path / "host", machine.prefix, outside.name, machine.name)
        options = ["--driver", "qemu", "--underlay", outside.name, "--prefix", machine.prefix]
        with two_roles(tmp_path, options, machine) as roles:
            roles.cloud.wait_for_image()
            environment = roles.cloud.environment()
            shell = Shell(roles.cloud, "two_roles_qemu")
            add_image(shell, tmp_path)
            lay_network(shell)
            address = boot(shell, tmp_path)
            log_in(shell, outside, tmp_path, address)
            assert sweep(scope, environment) == []

            before = processes(scope)
            roles.host.kill()
            roles.host.start()
            assert processes(scope) == before, "the guest outlives its host's process"
            log_in(shell, outside, tmp_path, address)

            for verb, status in (("stop", "SHUTOFF"), ("start", "ACTIVE")):
                shell.type(f"openstack server {verb} walk")
                asyncio.run(until(status, lambda: is_(shell, status), 120))  # noqa: B023
                assert sweep(scope, environment) == []
            clear_up(shell, address)
            assert sweep(scope, environment) == []
        assert sweep(scope, None) == []
