"""Finding the convolution in front of each normalization layer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from typing import Any

from torch import fx, nn

logger = logging.getLogger(__name__)


def feeding_convolutions(
    network: nn.Module, norms: Collection[nn.Module]
) -> dict[nn.Module, nn.Conv2d]:
    """The convolutions whose output goes into one normalization layer and nowhere else.

    The forward functions are traced symbolically (`torch.fx`). Where one cannot be traced, the
    debug log says so and its submodules are traced one by one, as if each were only called as a
    whole; convolutions that the function itself calls are then not found.

    Args:
        network: in evaluation mode.
        norms: normalization layers of the network.

    Returns:
        Normalization layer to the `nn.Conv2d` in front of it, where there is one that feeds it
        alone and both are called once.
    """
    if network in norms or not any(module in norms for module in network.modules()):
        return {}
    tracer = _Tracer(norms)
    try:
        graph = tracer.trace(network)
    # What a forward function makes of symbolic values has no common type.
    except Exception as error:
        if not isinstance(network, nn.ModuleList | nn.ModuleDict):
            logger.debug(
                "%s cannot be traced as a whole (%s); its submodules are traced one by one",
                type(network).__name__,
                str(error).split(".")[0],
            )
        found: dict[nn.Module, nn.Conv2d] = {}
        for child in network.children():
            found.update(feeding_convolutions(child, norms))
        return found
    return _pairs(network, graph, norms)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module computes more than its forward says.

    Args:
        module: any.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Tracer(fx.Tracer):
    """Symbolic tracing that does not look into the normalization layers."""

    def __init__(self, norms: Collection[nn.Module]) -> None:
        super().__init__()
        self._norms = norms

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_norm = m in self._norms or isinstance(m, nn.InstanceNorm2d)
        return is_norm or super().is_leaf_module(m, module_qualified_name)


def _pairs(
    network: nn.Module, graph: fx.Graph, norms: Collection[nn.Module]
) -> dict[nn.Module, nn.Conv2d]:
    modules: dict[Any, nn.Module] = {
        node: network.get_submodule(str(node.target))
        for node in graph.nodes
        if node.op == "call_module"
    }
    calls = Counter(modules.values())
    # Weights that a forward function reads by itself must stay as they are.
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    pairs = {}
    for node, norm in modules.items():
        source: Any = node.args[0] if node.args else None
        convolution = modules.get(source)
        if (
            norm in norms
            and type(convolution) is nn.Conv2d
            and calls[norm] == calls[convolution] == 1
            and list(source.users) == [node]
            and source.target not in read
            and not has_hooks(convolution)
        ):
            pairs[norm] = convolution
    return pairs
