"""Files about runs as a whole and groups of them: manifests, indexes, submissions, triggers."""
