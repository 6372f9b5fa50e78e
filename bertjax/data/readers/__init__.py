"""The forms of corpus files: what a file holds, told by its content, and its raw records."""
