"""The data of a training: encoded examples, their order, packing, and batches."""
