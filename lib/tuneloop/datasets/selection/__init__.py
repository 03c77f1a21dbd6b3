"""The selection of the traces that deserve training, as rules over compact rows."""
