"""Finding config values that cannot work before anything is loaded or computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

from metabin_plugin.engine.amp_check import check_mixed_precision
from metabin_plugin.engine.architecture_check import check_architecture
from metabin_plugin.engine.config_types import check_types
from metabin_plugin.engine.fastreid_check import check_fastreid
from metabin_plugin.engine.metabin_check import check_metabin
from metabin_plugin.errors import ConfigError
from metabin_plugin.modeling import MetaBIN

_is_checked = ContextVar("_is_checked", default=False)


@contextmanager
def checked(cfg: CfgNode) -> Iterator[None]:
    """Run a block on a config that ``check_config`` has accepted.

    A training passes several doors, each of which is also used alone. The outermost one checks, and
    in its block the others take the config to be right.

    Args:
        cfg: the config.

    Raises:
        ConfigError: as of ``check_config``.
    """
    if not _is_checked.get():
        check_config(cfg)
    token = _is_checked.set(True)
    try:
        yield
    finally:
        _is_checked.reset(token)


def check_config(cfg: CfgNode) -> None:
    """Check the keys that the plugin reads and those that fastreid fails on without a reason.

    A meta-architecture with keys of its own checks them in a class method ``check_config(cfg)``.

    Raises:
        ConfigError: a key's value cannot work; the sentence names both and the remedy.
    """
    check_types(cfg, get_cfg())
    check_fastreid(cfg)
    check_architecture(cfg)
    check_mixed_precision(cfg)
    check_metabin(cfg.METABIN)
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    _check_synchronization(cfg, architecture)
    _check_compilation(cfg.METABIN)
    if hasattr(architecture, "check_config"):
        architecture.check_config(cfg)


def _check_synchronization(cfg: CfgNode, architecture: type) -> None:
    if cfg.METABIN.SYNC_STATS and not issubclass(architecture, MetaBIN):
        raise ConfigError(
            "METABIN.SYNC_STATS is True, but MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE}, which keeps losses and statistics to each process; "
            "use MetaBIN (METABIN.HOOKS () trains it without meta-learning), or set it to False"
        )


def _check_compilation(node: CfgNode) -> None:
    if node.COMPILE and node.SECOND_ORDER and "MetaLearningHook" in node.HOOKS:
        raise ConfigError(
            "METABIN.COMPILE is True, but what torch.compile makes has no second derivative, which "
            "METABIN.SECOND_ORDER True needs; set one of the two to False"
        )
