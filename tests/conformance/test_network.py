"""The official suites' developer set of network, on a cloud of the fake driver with two hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.testing.running import RunningCloud, running
from tests.conformance.test_first import UPSTREAM_SKIP, ledger, run_set

# Extensions that this cloud does not announce: what they are is said in features.conf.
ABSENT = (
    "dvr",
    "DVR",
    "evpn",
    "ovn-bgp",
    "network-segment-range",
    "l3-ndp-proxy",
    "l3-conntrack-helper",
    "local_ip",
    "router-interface-fip",
    "tag",
)
OWN_SKIPS = (
    UPSTREAM_SKIP,
    *(f"{alias} extension not enabled" for alias in ABSENT),
    *(f"Skipped because network extension: {alias} is not enabled" for alias in ABSENT),
    "DNSIntegration",  # wants Designate
    "neutron.services.l3_router.service_providers",  # drivers of Neutron's own
    "This test is skipped until",
    "At least one DHCP agent is required",  # hosts serve their own guests, as with OVN
    "Advanced image is required",
)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[RunningCloud]:
    with running(tmp_path / "state") as started:
        yield started


@pytest.mark.slow
def test_every_test_of_network_passes_but_those_in_the_ledger(
    cloud: RunningCloud, tmp_path: Path
) -> None:
    result = run_set(cloud, "dev-network", tmp_path)
    tests = result["tests"]
    assert len(tests) == 724
    failed = {t: row["error"] for t, row in tests.items() if row["outcome"] == "failed"}
    assert {t: error for t, error in failed.items() if t not in ledger()} == {}
    skipped = {t: row["error"] for t, row in tests.items() if row["outcome"] == "skipped"}
    assert {t: why for t, why in skipped.items() if not why.startswith(OWN_SKIPS)} == {}
    assert len(skipped) <= 47
