"""What schemathesis cannot know by itself; it loads this module (SCHEMATHESIS_HOOKS)."""

import schemathesis

schemathesis.serializer.alias("application/openstack-images-v2.1-json-patch", "application/json")
