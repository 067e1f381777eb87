"""Admission, budgets, the batcher and the threads: decides which work runs when.

Knows nothing of HTTP.
"""
