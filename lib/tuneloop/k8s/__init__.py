"""The loop on Kubernetes: shapes, rendering, checks. Only cluster.py talks to a cluster."""
