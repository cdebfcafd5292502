"""TFTP: packets and the transfer state machine are pure; server.py does the I/O."""
