"""Giving a server a port while it lives, and taking one away: each undoes the other.

What the server shall have in the end is in `becoming`: one more request in `networks`, or one less of its `nics`.
"""

from __future__ import annotations

import contextlib

from pileus.kernel.faults import Invalid, NoCapacity, NotFound
from pileus.kernel.sagas import Changes, Run, Step
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import noting
from pileus.services.compute.servers.placing import claim_here, promised
from pileus.services.compute.servers.sagas import cards, guest_ref, host_if_up
from pileus.services.compute.settings import settings_of
from pileus.services.network.contract import NETWORK, NicInfo, NicRequest
from pileus.services.placement.contract import PLACEMENT, Demand, Group


async def _surplus(run: Run[Server]) -> list[NicInfo]:
    """What network has for the server beyond the interfaces it had, or shall keep."""
    kept = {nic.port_id for nic in run.becoming.nics}
    return [nic for nic in await _nics(run) if nic.port_id not in kept]


async def _nics(run: Run[Server]) -> list[NicInfo]:
    await run.runtime.store.visible()  # what network has just written counts
    return (await run.peer(NETWORK).nics([run.record.id])).get(run.record.id, [])


async def _promised(run: Run[Server]) -> dict[str, Group]:
    return await promised(run, [nic.port_id for nic in await _surplus(run)])


async def _set_aside(run: Run[Server]) -> None:
    """What those ports were promised is the saga's, to be given back or taken back."""
    if groups := await _promised(run):
        kept = await promised(run, [nic.port_id for nic in run.becoming.nics])
        await run.peer(PLACEMENT).set_aside(
            run.record.id, run.id, only=groups.values(), keeps=kept.values()
        )


# Attaching


async def bind_port(run: Run[Server]) -> Changes:
    """Makes or binds the port; those that the server has already are asked for again, by id."""
    server, wanted = run.record, run.becoming
    guest = guest_ref(server, settings_of(run.runtime).default_zone)
    requests = [NicRequest(port_id=nic.port_id) for nic in wanted.nics]
    await run.peer(NETWORK).attach(run.caller, guest, [*requests, wanted.networks[-1]], [])
    if groups := await _promised(run):
        try:
            await claim_here(run, Demand(resources={}, groups=groups), run.id)
        except NoCapacity as e:
            raise Invalid(
                f"Failed to allocate additional resources to {server.id} during interface attach. "
                f"{e.message}",
                internal=e.internal,
            ) from None
    return {}


async def unbind_port(run: Run[Server]) -> None:
    for nic in await _surplus(run):
        await run.peer(NETWORK).detach(run.record.id, nic.port_id)
    await run.peer(PLACEMENT).release(run.id)
    await look_again(run)
    await noting.failure(run)


async def plug(run: Run[Server]) -> Changes:
    """Wires the port and gives the guest its card."""
    server = run.record
    host = await run.agent(COMPUTE_HOST, on=server.host)
    await run.peer(NETWORK).plug(server.id, server.host)
    for card in await cards(run, await _surplus(run), server.image):
        await host.plug(server.id, card)
    await run.peer(PLACEMENT).take_back(server.id, run.id, besides=True)
    await noting.success(run)
    return {"nics": await _nics(run), "networks": run.becoming.networks}


async def unplug(run: Run[Server]) -> None:
    """Takes the cards away. A host that is down runs no guest, and a guest that is gone has no card."""
    server = run.record
    await _set_aside(run)
    if host := await host_if_up(run, server.host):
        with contextlib.suppress(NotFound):
            for nic in await _surplus(run):
                await host.unplug(server.id, nic.port_id)


# Detaching


async def unplug_card(run: Run[Server]) -> Changes:
    """The guest lets go first; if it does not, the port stays its own."""
    host = await run.agent(COMPUTE_HOST, on=run.record.host)
    for nic in await _surplus(run):
        await host.unplug(run.record.id, nic.port_id)
    await _set_aside(run)
    return {}


async def plug_again(run: Run[Server]) -> None:
    """The card of a port that is still the server's comes back, if there is a guest to take it."""
    surplus = await _surplus(run)
    if surplus:
        await run.peer(PLACEMENT).take_back(run.record.id, run.id, besides=True)
    await run.peer(PLACEMENT).release(run.id)
    if surplus and (host := await host_if_up(run, run.record.host)):
        with contextlib.suppress(NotFound):
            for card in await cards(run, surplus, run.record.image):
                await host.plug(run.record.id, card)
    await noting.failure(run)


async def free_port(run: Run[Server]) -> Changes:
    server = run.record
    for nic in await _surplus(run):
        await run.peer(NETWORK).detach(server.id, nic.port_id)
    await run.peer(PLACEMENT).release(run.id)
    nics = await _nics(run)
    await noting.success(run)
    return {"nics": nics}


async def look_again(run: Run[Server]) -> None:
    """A port that was freed is the server's no longer: the record says what network has."""
    nics = await _nics(run)
    async with run.runtime.store.tx(wait=False) as tx:
        server = await SERVERS.get(tx, run.record.id)
        await SERVERS.change(tx, server, nics=nics)


ATTACH = noting.saga(
    "interface_attach", "attach_interface", Step(bind_port, unbind_port), Step(plug, unplug)
)
DETACH = noting.saga(
    "interface_detach",
    "detach_interface",
    Step(unplug_card, plug_again),
    Step(free_port, look_again),
)
