"""The HTML page of the delta report."""
