"""What the frozen prefix makes of an image, computed once and kept on disk."""
