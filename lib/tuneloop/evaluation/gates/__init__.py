"""Gates: what a result must show before a run may pass, and who tried how often."""
