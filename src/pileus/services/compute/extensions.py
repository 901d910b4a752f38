"""Extensions: those of Nova's once optional parts that are served here. Terraform and Horizon look for them.

https://docs.openstack.org/api-ref/compute/#extensions-extensions-deprecated
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Record
from pileus.services.compute.flavors import FLAVORS

_RULE = "os_compute_api:extensions"
_UPDATED = "2014-12-03T00:00:00Z"

# Alias -> (name, what it says).
_SERVED = {
    "OS-DCF": ("DiskConfig", "Disk Management Extension."),
    "OS-EXT-AZ": ("ExtendedAvailabilityZone", "Extended Availability Zone support."),
    "OS-EXT-IPS": ("ExtendedIps", "Adds type parameter to the ip list."),
    "OS-EXT-IPS-MAC": ("ExtendedIpsMac", "Adds mac address parameter to the ip list."),
    "OS-EXT-SRV-ATTR": ("ExtendedServerAttributes", "Extended Server Attributes support."),
    "OS-EXT-STS": ("ExtendedStatus", "Extended Status support."),
    "OS-FLV-DISABLED": ("FlavorDisabled", "Support to show the disabled status of a flavor."),
    "OS-FLV-EXT-DATA": ("FlavorExtraData", "Provide additional data for flavors."),
    "OS-SCH-HNT": ("SchedulerHints", "Pass arbitrary key/value pairs to the scheduler."),
    "OS-SRV-USG": ("ServerUsage", "Adds launched_at and terminated_at on Servers."),
    "os-access-ips": ("AccessIPs", "Access IPs support."),
    "os-admin-actions": ("AdminActions", "Enable admin-only server actions"),
    "os-aggregates": ("Aggregates", "Admin-only aggregate administration."),
    "os-attach-interfaces": ("AttachInterfaces", "Attach interface support."),
    "os-availability-zone": ("AvailabilityZone", "Availability zones, and servers in them."),
    "os-assisted-volume-snapshots": (
        "AssistedVolumeSnapshots",
        "Assisted volume snapshots.",
    ),
    "os-config-drive": ("ConfigDrive", "Config Drive Extension."),
    "os-console-auth-tokens": ("ConsoleAuthTokens", "Console token authentication support."),
    "os-consoles": ("Consoles", "Interactive consoles of servers."),
    "os-floating-ip-pools": ("FloatingIpPools", "Floating IPs support."),
    "os-floating-ips": ("FloatingIps", "Floating IPs support."),
    "os-hosts": ("Hosts", "Admin-only host administration."),
    "os-instance_usage_audit_log": ("OSInstanceUsageAuditLog", "Usage audit logs of servers."),
    "os-multinic": ("Multinic", "Multiple network support."),
    "os-networks": ("Networks", "Networks as tenants see them."),
    "os-remote-consoles": ("Consoles", "Interactive Console support."),
    "os-server-external-events": ("ServerExternalEvents", "External event triggers."),
    "os-shelve": ("Shelve", "Instance shelve mode."),
    "os-tenant-networks": ("OSTenantNetworks", "Tenant-based Network Management Extension."),
    "os-console-output": ("ConsoleOutput", "Console log output support, with tailing ability."),
    "os-deferred-delete": ("DeferredDelete", "Instance deferred delete."),
    "os-extended-hypervisors": ("ExtendedHypervisors", "Extended hypervisors support."),
    "os-extended-quotas": ("ExtendedQuotas", "Adds ability for admins to delete quota."),
    "os-extended-services": ("ExtendedServices", "Extended services support."),
    "os-extended-services-delete": ("ExtendedServicesDelete", "Extended services deletion."),
    "os-extended-status": ("ExtendedStatus", "Extended Status support."),
    "os-flavor-access": ("FlavorAccess", "Flavor access support."),
    "os-flavor-extra-specs": ("FlavorExtraSpecs", "Flavors extra specs support."),
    "os-flavor-manage": ("FlavorManage", "Flavor create/delete API support."),
    "os-flavor-rxtx": ("FlavorRxtx", "Support to show the rxtx status of a flavor."),
    "os-flavor-swap": ("FlavorSwap", "Support to show the swap status of a flavor."),
    "os-hypervisor-status": ("HypervisorStatus", "Show hypervisor status."),
    "os-hypervisors": ("Hypervisors", "Admin-only hypervisor administration."),
    "os-instance-actions": ("InstanceActions", "View a log of actions and events on a server."),
    "os-keypairs": ("Keypairs", "Keypair Support."),
    "os-lock-server": ("LockServer", "Enable lock/unlock server actions."),
    "os-multiple-create": ("MultipleCreate", "Allow multiple create."),
    "os-quota-sets": ("Quotas", "Quotas management support."),
    "os-security-groups": ("SecurityGroups", "Security group support."),
    "os-server-list-multi-status": ("ServerListMultiStatus", "Filter servers by status values."),
    "os-server-password": ("ServerPassword", "Server password support."),
    "os-server-sort-keys": ("ServerSortKeys", "Add sort keys and directions to server lists."),
    "os-server-start-stop": ("ServerStartStop", "Start/Stop instance compute API support."),
    "os-services": ("Services", "Services support."),
    "os-simple-tenant-usage": ("SimpleTenantUsage", "Simple tenant usage extension."),
    "os-used-limits": ("UsedLimits", "Provide data on limited resource usage."),
    "os-used-limits-for-admin": ("UsedLimitsForAdmin", "Used limits of any project."),
    "os-user-data": ("UserData", "Add user_data to the Create Server API."),
}


def _view(alias: str) -> dict[str, Any]:
    name, description = _SERVED[alias]
    return {
        "alias": alias,
        "name": name,
        "description": description,
        "links": [],
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
        "updated": _UPDATED,
    }


class Extensions(Resource[Record]):
    table = FLAVORS  # it names no record
    rules: ClassVar[Mapping[str, str]] = {_RULE: "@"}

    @operation("GET", "/extensions", _RULE)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return {"extensions": [_view(alias) for alias in _SERVED]}

    @operation("GET", "/extensions/{alias}", _RULE)
    async def show(self, ctx: Context, alias: str) -> dict[str, Any]:
        if alias not in _SERVED:
            raise NotFound("The resource could not be found.")
        return {"extension": _view(alias)}
