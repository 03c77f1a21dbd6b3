"""Around every request: access log, authorization, CORS, loopback guard."""
