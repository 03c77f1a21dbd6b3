"""Plans of scoring runs."""
