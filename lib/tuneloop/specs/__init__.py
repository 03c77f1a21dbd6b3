"""Specs: run specs, which users write as YAML, and the stage specs that a plan makes from them."""
