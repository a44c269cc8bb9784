"""Jobs, an HTTP API and web pages."""
