"""Hand a tuned model on: the files of its folder besides the weights, and the parity gate."""
