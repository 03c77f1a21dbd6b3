"""Files and objects: the only fsspec calls, their errors, the form of places."""
