"""Images in: data sets and folders, decoding, views, and batches."""
