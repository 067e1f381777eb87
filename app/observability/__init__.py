"""What operators see: metrics, logs, traces, stages, request ids and memory."""
