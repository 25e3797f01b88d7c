"""The protocols, without I/O: bytes in, replies out. Nothing here knows of sockets, files, clocks or threads."""
