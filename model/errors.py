"""Errors that a user can correct: every program here ends with the message as one line.

    ModelError
      DatasetError          a folder, list, image or mask is missing or broken
      RecipeError           a number of a recipe is out of its bounds, or makes training diverge
      WeightsError          a weights file is missing, damaged or of another kind
      NetworkError          a state dict or a pretrained network cannot be used
      EngineError           an engine or its device is not there
        DeviceLost          nothing works on the device any more until the process is replaced
      CheckpointError       there is no checkpoint, or it is of another run
      OutputError           what would be written is there already

The message names what was found, what was expected and what to do.
"""


class ModelError(Exception):
    pass


class DatasetError(ModelError):
    pass


class RecipeError(ModelError):
    pass


class WeightsError(ModelError):
    pass


class NetworkError(ModelError):
    pass


class EngineError(ModelError):
    pass


class DeviceLost(EngineError):
    pass


class CheckpointError(ModelError):
    pass


class OutputError(ModelError):
    pass
