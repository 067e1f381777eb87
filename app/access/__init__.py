"""API keys and rate limits: who may call, and how often."""
