"""The network: a stream, TLS, and the sessions that drive the protocol cores over it."""
