"Numbered notebooks that make deepfakes, mark them and catch them."
__version__ = "0.1.0"

_lazy = {"Detector": "detect.detector"}


def __getattr__(name):
    if name not in _lazy: raise AttributeError(f"module 'deepfake_nb' has no attribute '{name}'")
    from importlib import import_module
    return getattr(import_module(f"deepfake_nb.{_lazy[name]}"), name)


def __dir__(): return [*globals(), *_lazy]
