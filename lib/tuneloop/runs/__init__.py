"""Plans and how they run."""
