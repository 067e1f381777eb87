"""Admission, budgets, the batcher and the threads: they decide which work runs when.

Know nothing of HTTP.
"""
