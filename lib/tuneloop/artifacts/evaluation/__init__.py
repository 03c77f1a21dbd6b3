"""Files of evaluations: samples, delta reports and verdicts."""
