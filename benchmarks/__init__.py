"""Benchmarks: each one command, `python -m benchmarks.<name>`, a table and a JSON file."""
