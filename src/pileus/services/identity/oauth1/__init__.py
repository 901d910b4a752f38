"""OAuth 1.0a: a user lends some roles on a project to a consumer. https://docs.openstack.org/api-ref/identity/v3-ext/#os-oauth1-api"""
