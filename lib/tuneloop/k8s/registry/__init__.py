"""Read the labels of an image from its registry, as docker and the kubelet reach it."""
