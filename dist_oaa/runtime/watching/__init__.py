"""What ranks know of each other: what each is doing, who is slow, who is missing."""
