"""The HTTP service: an uploaded image in, its mask out.

From `model` it imports the predictor, the engines' contract, classes and weights. It never imports
PyTorch.
"""

__version__ = "0.1.0"
