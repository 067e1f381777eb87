"""Handles of Serve for tests without a cluster."""

from model.predictor import open_predictor


class ScriptedHandle:
    """Has the methods of a handle that are used; each call of `segment` gives the next answer.

    So does each call of `describe`, as long as there are `descriptions`.
    """

    def __init__(self, *answers, descriptions=()):
        self.answers = list(answers)
        self.descriptions = list(descriptions)
        self.calls = []
        self.limits_s = []
        self.cancelled = 0
        self.other = None
        """A method in place of `segment`."""

    @property
    def describe(self):
        return ScriptedMethod(self.tell, limits_s=self.limits_s)

    @property
    def segment(self):
        return self.other or ScriptedMethod(self.answer, on_cancel=self.count_cancelled)

    def answer(self, *arguments):
        self.calls.append(arguments)
        return give(self.answers.pop(0))

    def tell(self):
        return give(self.descriptions.pop(0) if self.descriptions else ("an engine", "cpu"))

    def count_cancelled(self):
        self.cancelled += 1


class ComputingHandle(ScriptedHandle):
    """Computes as an engine replica does."""

    def __init__(self, weights_file, **options):
        super().__init__(**options)
        self.predictor = open_predictor(weights_file, device="cpu")

    def answer(self, digest, canvas, confidence, weights):
        return self.predictor.predict([canvas])[0]


class ScriptedMethod:
    def __init__(self, call, on_cancel=lambda: None, limits_s=None):
        self.call, self.cancel = call, on_cancel
        self.limits_s = limits_s if limits_s is not None else []

    def remote(self, *arguments):
        self.arguments = arguments
        return self

    def result(self, *, timeout_s):
        self.limits_s.append(timeout_s)
        return self.call(*self.arguments)


def give(answer):
    if isinstance(answer, Exception):
        raise answer
    return answer
