"""From images to captions: decoding, the captioner, captions in bulk."""
