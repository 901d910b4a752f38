"""Metadata definitions: what names and values mean that images, flavors and volumes may be given."""
