"""What people ask for: the run spec, and the stage specs that a plan makes of it."""
