"""The target of the stand-in."""


class ClassifierOutputTarget:
    def __init__(self, category):
        self.category = category

    def __call__(self, output):
        return output[self.category]
