"""Decodes uploads and encodes masks."""
