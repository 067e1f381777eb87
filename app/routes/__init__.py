"""The endpoints, one file per concern; handlers are only wiring."""
