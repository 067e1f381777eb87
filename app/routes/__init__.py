"""The endpoints. Handlers only read parameters and headers, and start a task."""
