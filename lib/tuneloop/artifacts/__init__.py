"""Everything that stages leave: one class, one writer and one reader for each kind of file."""
