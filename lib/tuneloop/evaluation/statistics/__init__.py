"""Statistics of models on the same items, by scipy and statsmodels; pure functions of arrays."""
