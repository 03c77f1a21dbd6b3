"""The stages of the loop and the contract that each of them runs under."""
