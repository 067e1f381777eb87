"""From an upload's bytes to pixels, and from a mask to the bytes of an answer."""
