"""The endpoints of the store's HTTP API."""
