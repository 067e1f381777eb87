"""What an operator sees: metrics, logs, stages, request ids and memory."""
