"""Faults of Tunix 0.1.7, one module each.

A patch changes one model and never Tunix's own classes, so models of other settings in the same
process are not affected. The test of each patch fails as soon as Tunix has fixed the fault.
"""
