"""Difficult documents, and the size of their tokenizer."""

DOCUMENTS = [
    b"the cat and the dog and the cat",
    b"",
    b"the \xff\xfe \x00 the\r\n cat \xe2\x96\x81 dog",
    b"and the dog the the the",
    b"x",
]
TOKENS = 262
