"""The Kubernetes API: connection and namespace. The only room that imports kubernetes."""
