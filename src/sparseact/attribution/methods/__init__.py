"""One scoring method a file, with its formula."""
