"""The store's web pages."""
