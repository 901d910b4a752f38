"""Federation: users whom somebody else vouches for. https://docs.openstack.org/api-ref/identity/v3-ext/#os-federation-api"""
