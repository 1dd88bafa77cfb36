"""What compiled code is made of: vectors, bytes, sums, and the decorator that compiles it."""
