"""Compare every file of a run with what its manifests, records and seals say of it."""
