"""Numbers from other people's code, and how ours compares with them."""
