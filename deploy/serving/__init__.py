"""The HTTP server: bundles behind one port, for programs that speak its own interface or that of other servers."""
