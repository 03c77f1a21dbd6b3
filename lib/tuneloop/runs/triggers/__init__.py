"""Start the loop when the trace store has enough new traces."""
