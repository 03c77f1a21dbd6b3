"""One step of training: loss, optimizers, and the function that is compiled."""
