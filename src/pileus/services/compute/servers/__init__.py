"""What can be done with servers: states, views; listing and creation; sagas; operations. A server itself is `server.py`."""
