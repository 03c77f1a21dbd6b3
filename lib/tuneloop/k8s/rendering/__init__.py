"""Render a plan as plain Kubernetes objects, without contacting a cluster."""
