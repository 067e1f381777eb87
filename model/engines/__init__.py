"""Engines: from canvases of uint8 RGB to masks of uint8, one file per engine, one contract."""
