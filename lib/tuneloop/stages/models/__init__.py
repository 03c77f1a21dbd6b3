"""The models that stages start from, publish and evaluate, as folders with a manifest."""
