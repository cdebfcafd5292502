"""bootnode: a netboot server in one process, and the images it serves."""

__version__ = "0.1.0"
