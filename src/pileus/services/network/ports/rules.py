"""Who may do what with ports: upstream's rules, attribute by attribute."""

from __future__ import annotations

from ..resource import ADMIN, OWNER, READER, SERVICE_TOO

_NETWORK_OWNER = f"{SERVICE_TOO} or role:member and rule:network_owner"
_SHARED_TOO = f"{_NETWORK_OWNER} or rule:shared"
_PAIRS = "(rule:admin_only) or (role:member and rule:network_owner) or rule:service_api"
_DEVICE = f"{OWNER} or rule:service_api"
_ITS_OWNER = f"{SERVICE_TOO} or role:member and project_id:%(project_id)s"
_DEVICE_OWNER = (
    "not rule:network_device or (rule:admin_only) or (rule:service_api) or "
    "role:member and rule:network_owner"
)
_TAGGED = f"{OWNER} or rule:context_is_advsvc"
_BOTH = "(role:member and rule:network_owner or role:member and project_id:%(project_id)s)"

PORT_RULES = {
    "create_port": _SHARED_TOO,
    "create_port:device_id": _DEVICE,
    "create_port:device_owner": _DEVICE_OWNER,
    "create_port:mac_address": _NETWORK_OWNER,
    "create_port:fixed_ips": _SHARED_TOO,
    "create_port:fixed_ips:ip_address": _NETWORK_OWNER,
    "create_port:fixed_ips:subnet_id": _SHARED_TOO,
    "create_port:port_security_enabled": _NETWORK_OWNER,
    "create_port:binding:host_id": SERVICE_TOO,
    "create_port:binding:profile": "rule:service_api",
    "create_port:binding:vnic_type": _DEVICE,
    "create_port:pvlan_type": OWNER,
    "create_port:pvlan_community": OWNER,
    "create_port:trusted": ADMIN,
    "create_port:allowed_address_pairs": _PAIRS,
    "create_port:allowed_address_pairs:mac_address": _PAIRS,
    "create_port:allowed_address_pairs:ip_address": _PAIRS,
    "get_port": f"{SERVICE_TOO} or role:reader and rule:network_owner or "
    "role:reader and project_id:%(project_id)s",
    "get_port:binding:vif_type": SERVICE_TOO,
    "get_port:binding:vif_details": SERVICE_TOO,
    "get_port:binding:host_id": SERVICE_TOO,
    "get_port:binding:profile": SERVICE_TOO,
    "get_port:pvlan_type": READER,
    "get_port:pvlan_community": READER,
    "get_port:resource_request": ADMIN,
    "get_port:trusted": ADMIN,
    "get_port:tags": "rule:context_is_advsvc or (rule:admin_only) or "
    "(role:reader and rule:network_owner) or role:reader and project_id:%(project_id)s",
    "update_port": _ITS_OWNER,
    "update_port:device_id": _DEVICE,
    "update_port:device_owner": _DEVICE_OWNER,
    "update_port:mac_address": f"{SERVICE_TOO} or role:manager and rule:network_owner",
    "update_port:fixed_ips": _NETWORK_OWNER,
    "update_port:fixed_ips:ip_address": _NETWORK_OWNER,
    "update_port:fixed_ips:subnet_id": _SHARED_TOO,
    "update_port:port_security_enabled": _NETWORK_OWNER,
    "update_port:binding:host_id": SERVICE_TOO,
    "update_port:binding:profile": "rule:service_api",
    "update_port:binding:vnic_type": _ITS_OWNER,
    "update_port:pvlan_type": OWNER,
    "update_port:pvlan_community": OWNER,
    "update_port:trusted": ADMIN,
    "update_port:allowed_address_pairs": _PAIRS,
    "update_port:allowed_address_pairs:mac_address": _PAIRS,
    "update_port:allowed_address_pairs:ip_address": _PAIRS,
    "update_port:tags": _TAGGED,
    "delete_port": f"{SERVICE_TOO} or (service_roles:service and {_BOTH}) or "
    "(not rule:compute_device and not rule:baremetal_device and not rule:manila_device and "
    f"{_BOTH})",
    "delete_port:tags": "rule:context_is_advsvc or role:member and project_id:%(project_id)s or "
    "(rule:admin_only) or (role:member and rule:network_owner)",
}
