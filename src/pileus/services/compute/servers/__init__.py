"""Servers: the noun this service is about. record, states, views; listing and creation; sagas; operations."""
