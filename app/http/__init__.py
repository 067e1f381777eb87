"""Everything specific to HTTP: bodies, content negotiation, problem details and middleware."""
