"""API keys and rate limits: who may use the service, and how often.

A caller is who a rate limit counts: the owner of a key, or else an address.
"""
