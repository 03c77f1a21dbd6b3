"""Run stages on Kubernetes: accelerator shapes, rendering, checks, diagnosis and the API client.

Only the package `client` sends requests to a cluster.
"""
