"""Send the metrics of a stage to a tracking server, beside the files that hold them."""
