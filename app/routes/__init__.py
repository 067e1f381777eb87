"""The endpoints. Handlers only connect the request to the service."""
