"""Client of the Kubernetes API. Only this package imports the library `kubernetes`."""
