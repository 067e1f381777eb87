"""What is HTTP about a request: its body, its answer format, its problems, and the middleware."""
