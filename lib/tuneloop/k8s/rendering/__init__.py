"""A plan as plain Kubernetes objects. Pure."""
