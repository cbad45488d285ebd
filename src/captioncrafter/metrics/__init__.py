"""coco-caption's numbers, to the last digit, with intervals."""
