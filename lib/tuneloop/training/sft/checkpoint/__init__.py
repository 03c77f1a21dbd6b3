"""The files of one checkpoint: arrays cut into pieces, and the manifest that names them."""
