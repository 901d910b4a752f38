"""The `pileus` command."""

from __future__ import annotations

import gc
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_BEGAN = time.monotonic()
_STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".state"),
    show_default=True,
    help="The folder that holds everything that persists.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pileus")
def main() -> None:
    """A whole OpenStack-compatible cloud in one process, or in many."""


def _options(*names: str) -> Callable[[F], F]:
    known: dict[str, Any] = {
        "listen": click.option(
            "--listen", default="127.0.0.1:5000", show_default=True, metavar="HOST:PORT"
        ),
        "driver": click.option(
            "--driver",
            type=click.Choice(["qemu", "container", "qemu,container", "fake"]),
            default="qemu",
            show_default=True,
            help="What the hosts are made of. `fake` needs nothing of the machine.",
        ),
        "store": click.option(
            "--store", default="", help="postgresql://... (default: SQLite in the state folder)"
        ),
        "bus": click.option("--bus", default="", help="nats://... (default: in process)"),
        "public_url": click.option(
            "--public-url", default="", help="What clients reach the cloud at."
        ),
        "control_url": click.option(
            "--control-url", default="", help="What hosts reach control at."
        ),
        "hosts": click.option(
            "--hosts", default=0, help="How many hosts the fake driver pretends to be."
        ),
        "host_name": click.option(
            "--host-name", default="", help="The host's name (default: this machine's)."
        ),
        "address": click.option(
            "--address", default="", help="This host's address on the underlay."
        ),
        "underlay": click.option(
            "--underlay", default="", help="The network namespace of the host's outer network."
        ),
        "prefix": click.option(
            "--prefix", default="", help="Tells two clouds on one machine apart."
        ),
        "off": click.option(
            "--off", multiple=True, metavar="TYPE", help="A service type to leave out."
        ),
        "origin": click.option(
            "--origin",
            multiple=True,
            metavar="URL",
            help="An origin whose pages may call the cloud from a browser (CORS), or *.",
        ),
        "set": click.option(
            "--set", multiple=True, metavar="SERVICE.NAME=VALUE", help="A setting of a service."
        ),
        "verbose": click.option(
            "-v", "--verbose", is_flag=True, help="Log what happens, not only what fails."
        ),
    }

    def add(fn: F) -> F:
        for name in reversed(names):
            fn = known[name](fn)
        return _STATE(fn)

    return add


_HOST = ("driver", "bus", "hosts", "host_name", "address", "underlay", "prefix", "off", "verbose")


@main.command()
@_options("listen", "store", "public_url", "set", "origin", *_HOST)
def up(**given: Any) -> None:
    """Run the whole cloud in the foreground until SIGTERM."""
    _run(given, control=True, host=True)


@main.command()
@_options("listen", "store", "bus", "public_url", "set", "origin", "off", "verbose")
def control(**given: Any) -> None:
    """Run the control role alone: no privileges needed."""
    _run({**given, "driver": "none"}, control=True, host=False)


@main.command()
@_options("control_url", "set", *_HOST)
def host(**given: Any) -> None:
    """Run the host role alone: it never touches the database."""
    _run(given, control=False, host=True)


def _run(given: dict[str, Any], *, control: bool, host: bool) -> None:
    verbose = given.pop("verbose")
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    gc.disable()  # until it is up: the modules and the declarations stay
    from pileus.kernel.faults import Invalid, Unavailable
    from pileus.node.run import Options, run

    given["off"] = tuple(given.get("off", ()))
    given["set"] = tuple(given.get("set", ()))
    given["origin"] = tuple(given.get("origin", ()))
    given["state"] = given["state"].absolute()
    try:
        run(Options(began=_BEGAN, **given), control=control, host=host)
    except (Invalid, Unavailable) as e:
        raise click.ClickException(e.message) from e
    except OSError as e:
        raise click.ClickException(
            f"{e.strerror or e}: {given.get('listen', '')}. Is another cloud running there?"
        ) from e


@main.command()
@_STATE
def down(state: Path) -> None:
    """Stop the cloud of a state folder; guests and state stay."""
    import asyncio

    from pileus.cli import background
    from pileus.kernel.world import Clock

    _cloud(state)
    stopped = asyncio.run(background.stop(state, Clock()))
    click.echo("stopped" if stopped else "It was not running.")


@main.command()
@_STATE
@click.option("--socks", default="", metavar="HOST:PORT", help="Serve SOCKS 5 there instead.")
@click.argument("host", default="")
@click.argument("port", type=click.IntRange(1, 65535), default=22)
def connect(state: Path, socks: str, host: str, port: int) -> None:
    """Reach a floating IP from outside the cloud's network, as ssh's ProxyCommand.

    \b
    ssh -o ProxyCommand="pileus connect --state DIR %h %p" cirros@172.24.4.10
    pileus connect --socks 127.0.0.1:1080 &  curl -x socks5://127.0.0.1:1080 ...
    """
    import asyncio

    from pileus.host import socks as proxy
    from pileus.kernel.faults import Fault

    if bool(host) == bool(socks):
        raise click.UsageError("either the floating IP to connect to, or --socks HOST:PORT")
    try:
        if host:
            proxy.join_standard_streams(proxy.connected(state.absolute(), host, port))
        else:
            asyncio.run(
                proxy.forward(state.absolute(), socks, lambda at: click.echo(f"socks {at}"))
            )
    except Fault as e:
        raise click.ClickException(e.message) from e
    except KeyboardInterrupt:
        return


@main.command()
@_STATE
def forget(state: Path) -> None:
    """Remove what a stopped cloud left on this machine: guests, devices, namespaces, rules. The folder stays."""
    from pileus.cli import background
    from pileus.kernel.faults import Unavailable
    from pileus.node import run

    found = _cloud(state)
    if background.pid_of(state) is not None:
        raise click.ClickException(f"it is running; stop it first: pileus down --state {state}")
    kept = {n: found[n] for n in ("driver", "host_name", "underlay", "prefix", "hosts")}
    try:
        run.forget(run.Options(state=state.absolute(), **kept))
    except Unavailable as e:
        raise click.ClickException(e.message) from e
    click.echo("forgotten")


@main.command()
@_STATE
@click.option(
    "--format",
    "form",
    type=click.Choice(["shell", "clouds-yaml"]),
    default="shell",
    show_default=True,
)
def env(state: Path, form: str) -> None:
    """Print what an administrator's client needs: `eval "$(pileus env)"`."""
    found, password = _cloud(state), _password(state)
    auth = {
        "auth_url": found["url"] + "/identity",
        "username": "admin",
        "password": password,
        "project_name": "admin",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }
    if form == "shell":
        values = {**auth, "region_name": "RegionOne", "identity_api_version": "3"}
        for name, value in values.items():
            click.echo(f"export OS_{name.upper()}={shlex.quote(value)}")
        return
    import yaml

    cloud = {"auth": auth, "region_name": "RegionOne", "identity_api_version": 3}
    click.echo(yaml.safe_dump({"clouds": {"pileus": cloud}}, sort_keys=False), nl=False)


@main.command()
@_STATE
@click.option("--json", "as_json", is_flag=True, help="The report as it is.")
def status(state: Path, as_json: bool) -> None:
    """Show services, hosts, what is under way, and what is wrong. Exit code 1 if something is."""
    report = _ask(state, "GET", "/status")
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        _show(report)
    sys.exit(1 if report["wrong"] else 0)


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    services = Table("service", "name", "url", title="Services")
    for s in report["services"]:
        services.add_row(s["type"], s["name"], s["url"])
    hosts = Table("host", "state", "contracts", title="Hosts")
    for h in report["hosts"]:
        hosts.add_row(h["name"], "up" if h["up"] else "down", ", ".join(h["contracts"]))
    console.print(services, hosts)
    for s in report["sagas"]:
        console.print(f"{s['saga']} of {s['of']} at step {s['step']} since {s['since']}")
    for text in report["wrong"]:
        console.print(f"[red]wrong:[/red] {text}")
    if not report["wrong"]:
        console.print("Nothing is wrong.")


@main.command()
@_STATE
@click.option(
    "--rotate", is_flag=True, help="Make new ones first; what the old ones made stays good."
)
def keys(state: Path, rotate: bool) -> None:
    """Show the keys of tokens and of stored credentials, without their secrets.

    One --rotate is enough for all controls of a cloud, whichever is asked: they share the store.
    """
    if rotate:
        found = _ask(state, "POST", "/identity/v3/keys/rotate")
    else:
        found = _ask(state, "GET", "/identity/v3/keys")
    for key in found["keys"]:
        use = "encrypts" if key["encrypts"] else "decrypts"
        click.echo(f"{key['purpose']} {key['number']} of {key['created_at']} {use}")


@main.group()
def network() -> None:
    """Ask about the cloud's network."""


@network.command()
@_STATE
@click.option(
    "--from", "port", required=True, metavar="PORT", help="The sender's port, by id or name."
)
@click.option("--to", required=True, metavar="IP[:PORT]", help="IPv6 as [ADDRESS]:PORT.")
@click.option(
    "--protocol", default="tcp", show_default=True, help="tcp, udp, icmp, ... or a number."
)
@click.option("--source-ip", default="", help="The sender's address (default: its port's first).")
def trace(state: Path, port: str, to: str, protocol: str, source_ip: str) -> None:
    """Say what stops a packet: a rule, a route or a missing piece. Exit code 1 if something does."""
    from urllib.parse import urlencode

    address, number = to.strip("[]"), ""
    if to.count(":") == 1 or "]:" in to:
        address, _, number = to.rpartition(":")
    root = "/network/v2.0"
    named = _ask(state, "GET", f"{root}/ports?{urlencode({'name': port})}")["ports"]
    if len(named) > 1:
        raise click.ClickException(f"{len(named)} ports are called {port!r}; say which by its id")
    query = {
        "port_id": named[0]["id"] if named else port,
        "ip_address": address.strip("[]"),
        "port": number,
        "protocol": protocol,
        "source_ip": source_ip,
    }
    found = _ask(state, "GET", f"{root}/pileus/trace?{urlencode(query)}")["trace"]
    for step in found["steps"]:
        mark = "  ok  " if step["passes"] else " STOP "
        click.echo(f"{mark} {step['at']}: {step['says']}")
    click.echo("The packet passes." if found["allowed"] else f"Stopped by {found['stopped_by']}.")
    sys.exit(0 if found["allowed"] else 1)


def _ask(state: Path, method: str, path: str) -> Any:
    """The answer of the running cloud to its administrator."""
    from pileus.cli.client import ApiError, Client, Credentials, Unreachable

    url = _cloud(state)["url"]
    client = Client(Credentials(url + "/identity", "admin", _password(state), "admin"))
    try:
        client.login()
        return client.send(method, url + path).json
    except ApiError as e:
        raise click.ClickException(str(e)) from e
    except Unreachable as e:
        raise click.ClickException(f"{e}. Start it: pileus up --state {state}") from e


def _cloud(state: Path) -> dict[str, Any]:
    path = state / "cloud.json"
    if not path.exists():
        raise click.ClickException(
            f"there is no cloud in {state}; start one: pileus up --state {state}"
        )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _password(state: Path) -> str:
    try:
        return (state / "admin-password").read_text().strip()
    except PermissionError:
        raise click.ClickException(
            f"{state}/admin-password can be read only by who runs the cloud"
        ) from None


if __name__ == "__main__":
    main()
