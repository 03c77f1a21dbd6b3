"""Parts of the eval stage: its sets, its models, and the file of samples."""
