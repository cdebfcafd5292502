"""IPv6 neighbour discovery: the one answer that keeps iPXE from waiting for a router."""
