"""Middleware that handles every request: access log, authorization, CORS, loopback guard."""
