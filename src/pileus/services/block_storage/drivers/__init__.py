"""Back ends of volumes. Only the agent imports them."""
