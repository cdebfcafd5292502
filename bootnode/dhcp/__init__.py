"""DHCP: codec, leases and responder are pure; server.py is the only module that does I/O."""
