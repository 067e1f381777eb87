"""Which work runs when: admission, budgets, the batcher and the threads. Knows nothing of HTTP."""
