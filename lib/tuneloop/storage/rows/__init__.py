"""Readers of files with one record per row: JSON, CSV, Parquet, Arrow, and folders of them."""
