"""What a person reads afterwards: the page and the model card."""
