"""Errors that a user can correct. Every program here prints the message as one line and ends.

    ModelError
      DatasetError          a folder, list, image or mask is missing or broken
      RecipeError           a value of a recipe is out of bounds, or makes training diverge
      WeightsError          a weights file is missing, damaged or of another kind
      NetworkError          a state dict or a pretrained network cannot be used
      EngineError           an engine or its device is not available
        DeviceLost          the device no longer works until the process is restarted
        NoKind              no compiled kind of the native engine runs on this processor
      CheckpointError       there is no checkpoint, or it belongs to another run
      OutputError           the output exists already, or cannot be written

The message says what was found, what was expected and what to do.
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
