"""One module for each way people keep captioned images on disk."""
