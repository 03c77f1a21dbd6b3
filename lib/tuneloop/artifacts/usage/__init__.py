"""Time that the stages of a run held, used and repeated."""
