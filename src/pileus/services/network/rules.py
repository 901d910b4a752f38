"""The rules that other rules refer to: upstream's names and check strings, as far as ours need them.

All services' rules share one namespace, so names that another service means otherwise (`owner`, `default`) stay out.
"""

from __future__ import annotations

BASE_RULES = {
    "context_is_admin": "role:admin",
    "context_is_advsvc": "role:advsvc",
    "service_api": "role:service",
    "network_owner": "project_id:%(network:project_id)s",
    "regular_user": "",
    "admin_only": "rule:context_is_admin",
    "shared": "field:networks:shared=True",
    "sg_owner": "project_id:%(security_group:project_id)s",
    "shared_security_group": "field:security_groups:shared=True",
    "shared_subnetpools": "field:subnetpools:shared=True",
    "shared_address_scopes": "field:address_scopes:shared=True",
    "shared_address_groups": "field:address_groups:shared=True",
    "shared_qos_policy": "field:policies:shared=True",
    "ext_parent_owner": "project_id:%(ext_parent:project_id)s",
    "restrict_wildcard": "(not field:rbac_policy:target_tenant=* and "
    "not field:rbac_policy:target_project=*) or rule:admin_only",
    "external": "field:networks:router:external=True",
    "external_network": "field:subnets:router:external=True",
    "network_device": "field:port:device_owner=~^network:",
    "compute_device": "field:port:device_owner=~^compute:",
    "baremetal_device": "field:port:device_owner=~^baremetal:",
    "manila_device": "field:port:device_owner=~^manila:",
}
