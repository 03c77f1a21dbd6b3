"""Logs of a stage's pods: read them from the kubelets, and archive them before they are deleted."""
