"""Decoding of uploads and encoding of masks."""
