"""Reading answers: normalisation that keeps the value, and finding the answer in a text."""
