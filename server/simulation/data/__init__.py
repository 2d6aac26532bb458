"""The built-in corpus and the program that makes it."""
