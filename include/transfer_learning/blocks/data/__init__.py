"""What pulling a dataset is made of: reading, checking, hashing, splitting, writing parts. Torch-free."""
