"""The endpoints. Handlers only connect a request to the service."""
