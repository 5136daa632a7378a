"""Registers the model with transformers' Auto classes when one of them first looks for what it does not know.

`AutoConfig.register` and its like need the classes themselves, and these need seconds of transformers' own modules. Who imports
arche_mdlm to count words in a story should not wait for them. Nor can they be imported as soon as the Auto classes are:
transformers loads those in the middle of loading its models.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

_CONFIGS, _MODELS = "transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"
_MAPPINGS = {
    _CONFIGS: ("CONFIG_MAPPING",),
    _MODELS: ("MODEL_MAPPING", "MODEL_FOR_MASKED_LM_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING"),
}
_registered = False


def register_with_auto_classes() -> None:
    """At the first look into a mapping; at once, if transformers has no such mappings."""
    for module in _MAPPINGS:
        if module in sys.modules:
            _watch(module)
        else:
            sys.meta_path.insert(0, _Behind(module, _watch))


def _register() -> None:
    global _registered
    if _registered:
        return
    _registered = True
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    from .configuration_mdlm import MDLMConfig
    from .modeling_mdlm import MDLMForMaskedDiffusion, MDLMModel

    AutoConfig.register("mdlm", MDLMConfig)
    AutoModel.register(MDLMConfig, MDLMModel)
    AutoModelForMaskedLM.register(MDLMConfig, MDLMForMaskedDiffusion)
    AutoModelForCausalLM.register(MDLMConfig, MDLMForMaskedDiffusion)


def _watch(module: str) -> None:
    """Exchange what `register` has put into a module's mappings for the same that looks out for us."""
    for name in _MAPPINGS[module]:
        mapping = getattr(sys.modules[module], name, None)
        if not isinstance(getattr(mapping, "_extra_content", None), dict):
            _register()
            return
        mapping._extra_content = _Registered(mapping._extra_content)


class _Registered(dict):
    """Classes registered with an Auto class, ours among them whenever somebody looks."""

    def __contains__(self, key) -> bool:
        return super().__contains__(key) or (_ready() and super().__contains__(key))

    def __iter__(self):
        _ready()
        return super().__iter__()

    def keys(self):
        _ready()
        return super().keys()

    def values(self):
        _ready()
        return super().values()

    def items(self):
        _ready()
        return super().items()


def _ready() -> bool:
    """Register, but not while transformers is being loaded: then nobody looks for our model yet."""
    loading = (getattr(getattr(module, "__spec__", None), "_initializing", False) for name, module in
               list(sys.modules.items()) if name.startswith("transformers."))  # fmt: skip
    if not _registered and not any(loading):
        _register()
    return _registered


class _Behind(MetaPathFinder):
    """Finds one module as the other finders do, and has its loading followed by an action."""

    def __init__(self, module: str, action: Callable[[str], None]):
        self.module, self.action, self.asking = module, action, False

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.module or self.asking:
            return None
        self.asking = True  # the others, not this one again
        try:
            spec = find_spec(fullname)
        finally:
            self.asking = False
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_act(module) -> None:
            load(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self.action(self.module)

        spec.loader.exec_module = load_and_act
        return spec
