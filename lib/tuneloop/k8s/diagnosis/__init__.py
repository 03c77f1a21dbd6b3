"""One verdict on a stage from what the API server shows. Pure."""
