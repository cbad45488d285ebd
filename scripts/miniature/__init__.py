"""How the embedded miniature is made: its sizes, what it learns from, and the stages of its training."""
