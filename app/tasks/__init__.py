"""The work of one request: from the upload to the encoded answer. Knows nothing of headers."""
