"""The HTTP side: from an upload to a mask. Of `model` it knows predictor, classes and weights."""

__version__ = "0.1.0"
