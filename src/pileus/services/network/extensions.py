"""Which parts of the API are there, by their aliases (API reference: extensions). Every alias listed is true."""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, Resource, operation

_UPDATED = "2026-01-01T00:00:00-00:00"
EXTENSIONS = {
    "address-group": ("Address group", "Support address group"),
    "address-scope": ("Address scope", "Address scopes extension."),
    "default-subnetpools": ("Default Subnetpools", "Provides ability to mark and use a subnetpool as the default."),
    "pvlan": ("Private VLAN", "Networks whose ports meet some of the others only."),
    "qinq": ("QinQ networks", "VLAN networks whose tag is a service's (802.1ad), around what tags guests use."),
    "qos": ("Quality of Service", "The Quality of Service extension."),
    "qos-bw-limit-direction": ("Direction for QoS bandwidth limit rule", "Bandwidth limits of what a port sends, and of what it receives."),
    "qos-bw-minimum-ingress": ("Ingress direction for QoS minimum bandwidth rule", "Minimum bandwidths of what a port receives."),
    "qos-default": ("QoS default policy", "A policy that a project's new networks are under."),
    "qos-fip": ("Floating IP QoS", "Floating IPs under a policy of their own."),
    "qos-gateway-ip": ("Router gateway IP QoS", "Router gateways under a policy of their own."),
    "qos-pps": ("QoS packet rate limit rule", "Packet rate limits."),
    "qos-pps-minimum": ("QoS minimum packet rate rule", "Minimum packet rates."),
    "qos-pps-minimum-rule-alias": ("QoS minimum packet rate rule alias", "Minimum packet rate rules by their own ids."),
    "qos-rule-type-details": ("Details of QoS rule types", "What the rules of a type may say."),
    "qos-rule-type-filter": ("Allow to filter the list of QoS rule types", "Lists all rule types, or those that can be made true."),
    "qos-rules-alias": ("Quality of Service rules alias API", "Rules by their own ids."),
    "rbac-address-group": ("Add address_group type to RBAC", "Address groups shown to other projects."),
    "rbac-address-scope": ("Add address_scope type to RBAC", "Address scopes shown to other projects."),
    "rbac-policies": ("RBAC Policies", "Policies that show objects to other projects."),
    "rbac-security-groups": ("Add security_group type to network RBAC", "Security groups shown to other projects."),
    "rbac-subnetpool": ("Add subnetpool type to RBAC", "Subnet pools shown to other projects."),
    "security-groups-remote-address-group": ("Remote address group id field for security group rules", "Rules that name address groups."),
    "security-groups-shared-filtering": ("Security group filtering on the shared field", "Support filtering security groups on the shared field"),
    "trunk": ("Trunk Extension", "Provides support for trunk ports"),
    "trunk-details": ("Trunk port details", "Expose trunk port details"),
    "subnet_onboard": ("Subnet Onboard", "Subnets that were there before become a pool's."),
    "subnetpool-prefix-ops": ("Subnet Pool Prefix Operations", "Prefixes added to a pool, and taken from it."),
    "agent": ("agent", "The agent management extension."),
    "agent-resources-synced": ("Agent's Resource View Synced to Placement", "Whether placement knows what a host's network has."),
    "agent_sort_key": ("Agents Sort Key", "Sort agents by a key."),
    "allowed-address-pairs": ("Allowed Address Pairs", "Provides allowed address pairs"),
    "availability_zone": ("Availability Zone", "The availability zone extension."),
    "binding": ("Port Binding", "Expose port bindings of a virtual port to external application"),
    "binding-extended": ("Port Bindings Extended", "The bindings of a port, two while its guest moves."),
    "dns-domain-ports": ("dns_domain for ports", "Allows the DNS domain to be specified for a port."),
    "dns-integration": ("DNS Integration", "Provides integration with DNS."),
    "dns-integration-domain-keywords": ("DNS domain names with keywords allowed", "Domains of networks that name the project or the user."),
    "enable-default-route-bfd": ("Enable Default Route BFD", "Gateways whose next hop does not answer are passed over."),
    "enable-default-route-ecmp": ("Enable Default Route ECMP", "What goes out is spread over all gateways."),
    "external-gateway-multihoming": ("Neutron L3 External Gateway Multihoming", "Several external gateways of a router."),
    "ext-gw-mode": (
        "Neutron L3 Configurable external gateway mode",
        "Extension of the router abstraction for specifying whether SNAT should occur on the external gateway",
    ),
    "external-net": ("Neutron external network", "Adds external network attribute to network resource."),
    "extra_dhcp_opt": ("Neutron Extra DHCP options", "Extra options configuration for DHCP."),
    "extraroute": ("Neutron Extra Route", "Extra routes configuration for L3 router"),
    "expose-port-forwarding-in-fip": ("Expose Floating IP port forwardings", "Floating IPs show their port forwardings."),
    "floating-ip-port-forwarding": ("Floating IP Port Forwarding", "Ports of a floating IP that lead to those of a port."),
    "floating-ip-port-forwarding-description": ("Floating IP Port Forwarding new attribute description", "Port forwardings have descriptions."),
    "floating-ip-port-forwarding-detail": ("Floating IP port forwarding detail", "Floating IPs show ids of their port forwardings."),
    "floating-ip-port-forwarding-port-ranges": ("Floating IP Port Forwarding support port ranges", "Ranges of ports of one length."),
    "extraroute-atomic": ("Atomically add/remove extra routes", "Edit extra routes of a router on server side by atomically adding/removing extra routes"),
    "flavors": ("Neutron Service Flavors", "Flavor specification for Neutron advanced services."),
    "floatingip-pools": ("Floating IP Pools Extension", "Provides a floating IP pools API."),
    "ip-substring-filtering": ("IP address substring filtering", "Ports found by a part of their address."),
    "l2_adjacency": ("L2 Adjacency", "Display L2 Adjacency for Neutron Networks."),
    "l3-flavors": ("Router Flavor Extension", "Flavor support for routers."),
    "l3-agent-scheduler-ha-chassis-priority": ("L3 Agent Scheduler HA Chassis Priority", "Priorities of the hosts that may have a router."),
    "l3-ha": ("HA Router extension", "Routers with a second host that takes over when theirs is lost."),
    "network-ip-availability": ("Network IP Availability", "Provides IP availability data for each network and subnet."),
    "port-mac-address-regenerate": ("Neutron Port MAC address regenerate", "A null MAC address is replaced by a new one."),
    "port-security-groups-filtering": ("Port filtering on security groups", "Provides security groups filtering when listing ports"),
    "security-groups-default-statefulness": ("Security Groups Default Statefulness", "Whether new groups keep track of connections."),
    "security-groups-default-rules": ("Default rules for security groups", "Rules that every new security group begins with."),
    "segment": ("Segment", "Segments extension."),
    "segments-peer-subnet-host-routes": ("Segments peer-subnet host routes", "Add host routes to subnets on a routed network (segments)"),
    "service-type": ("Neutron Service Type Management", "API for retrieving service providers for Neutron advanced services"),
    "tag-creation": ("Tag creation extension", "Several tags added at once."),
    "tag-ports-during-bulk-creation": ("Tag Ports During Bulk Creation", "Allow to tag ports during bulk creation"),
    "fip-port-details": ("Floating IP Port Details Extension", "Add port_details attribute to Floating IP resource"),
    "multi-provider": ("Multi Provider Network", "Expose mapping of virtual networks to multiple physical networks"),
    "net-mtu": ("Network MTU", "Provides MTU attribute for a network resource."),
    "net-mtu-writable": ("Network MTU (writable)", "Provides a writable MTU attribute for a network resource."),
    "network_availability_zone": ("Network Availability Zone", "Availability zone support for network."),
    "pagination": ("Pagination support", "Extension that indicates that pagination is enabled."),
    "port-security": ("Port Security", "Provides port security"),
    "port-resource-request": ("Port Resource Request", "What placement is to keep for a port."),
    "port-resource-request-groups": ("Port Resource Request Groups", "What is kept for a port, group by group."),
    "project-id": ("project_id field enabled", "Extension that indicates that project_id field is enabled."),
    "provider": ("Provider Network", "Expose mapping of virtual networks to physical networks"),
    "quota-check-limit": ("Quota engine limit check", "No limit below what is used, unless forced."),
    "quota-check-limit-default": ("Quota engine limit check by default", "By default, too."),
    "quotas": ("Quota management support", "Expose functions for quotas management per project"),
    "quota_details": ("Quota details management support", "Expose functions for quotas usage statistics per project"),
    "router": ("Neutron L3 Router", "Router abstraction for basic L3 forwarding between L2 Neutron networks and access to external networks via a NAT gateway."),
    "router_availability_zone": ("Router Availability Zone", "Availability zone support for router."),
    "security-group": ("security-group", "The security groups extension."),
    "security-groups-normalized-cidr": ("Normalized CIDR field for security group rules", "Add new field with normalized remote_ip_prefix cidr in SG rule"),
    "security-groups-rules-belongs-to-default-sg": ("Security Group Rule belongs to the default SG", "Add a flag to tell whether a rule belongs to the project's default security group"),
    "sorting": ("Sorting support", "Extension that indicates that sorting is enabled."),
    "standard-attr-description": ("standard-attr-description", "Extension to add descriptions to standard attributes"),
    "standard-attr-revisions": ("Resource revision numbers", "This extension will display the revision number of neutron resources."),
    "standard-attr-segment": ("Standard Attribute Segment Extension", "Add standard attributes to Segment resource"),
    "standard-attr-tag": ("Tag support for resources with standard attributes", "Enables to set tag on resources with standard attributes."),
    "standard-attr-timestamp": ("Resource timestamps", "Adds created_at and updated_at fields to all Neutron resources that have Neutron standard attributes."),
    "stateful-security-group": ("Stateful security group", "Indicates if the security group is stateful or not"),
    "subnet-dns-publish-fixed-ip": ("Subnet DNS publish fixed IP", "Indicates whether fixed IP addresses are to be published in DNS."),
    "subnet-external-network": ("Subnet belongs to an external network", "Informs if the subnet belongs to an external network"),
    "subnet-segmentid-enforce": ("Subnet SegmentID (policy enforced)", "Enforce segment_id policy rule."),
    "subnet-segmentid-writable": ("Subnet SegmentID (writable)", "Provides a writable segment_id attribute for a subnet resource."),
    "subnet-service-types": ("Subnet service types", "Provides ability to set the subnet service_types field"),
    "aap-reject-multicast": ("Allowed address pairs reject multicast extension", "Reject multicast addresses in Allowed Address Pairs"),
    "auto-allocated-topology": ("Auto Allocated Topology Services", "Auto Allocated Topology Services."),
    "availability_zone_filter": ("Availability Zone Filter Extension", "Add filter parameters to AvailabilityZone resource"),
    "dhcp_agent_scheduler": ("DHCP Agent Scheduler", "Which hosts serve a network's DHCP."),
    "empty-string-filtering": ("Empty String Filtering Extension", "Allow filtering by attributes with empty string value"),
    "filter-validation": ("Filter parameters validation", "Provides validation on filter parameters."),
    "ip_allocation": ("IP Allocation", "IP allocation extension."),
    "l3_agent_scheduler": ("L3 Agent Scheduler", "Schedule routers among l3 agents"),
    "logging": ("Logging API Extension", "Provides a logging API for resources such as security group and firewall."),
    "metering": ("Neutron Metering", "What passes routers is counted by labels."),
    "metering_source_and_destination_fields": ("Neutron Metering with source and destination filtering", "Rules of labels by source and destination."),
    "router-enable-snat": ("Exposes the router \"enable_snat\" read-only configuration flag", "Whether a router's gateway translates sources."),
    "subnet_allocation": ("Subnet Allocation", "Enables allocation of subnets from a subnet pool"),
    "vlan-transparent": ("Vlantransparent", "Provides Vlan Transparent Networks"),
}  # fmt: skip


def _view(alias: str) -> dict[str, Any]:
    name, description = EXTENSIONS[alias]
    return {
        "alias": alias,
        "name": name,
        "description": description,
        "updated": _UPDATED,
        "links": [],
    }


class Extensions(Resource[Any]):
    @operation("GET", "/extensions", "regular_user")
    async def index(self, ctx: Context) -> Any:
        return {"extensions": [_view(alias) for alias in EXTENSIONS]}

    @operation("GET", "/extensions/{alias}", "regular_user")
    async def show(self, ctx: Context, alias: str) -> Any:
        if alias not in EXTENSIONS:
            raise NotFound(f"Extension with alias {alias} does not exist", code="HTTPNotFound")
        return {"extension": _view(alias)}
