"""What is broken in fastreid on current Python, PyTorch, NumPy and on CPU: one module per cause."""

from __future__ import annotations

from collections.abc import Callable

from metabin_plugin.compat.data import (
    repair_data_loader,
    repair_image_reading,
    repair_preprocessing,
    repair_random_affine,
)
from metabin_plugin.compat.evaluation import (
    repair_euclidean_distance,
    repair_evaluation_mode,
    repair_evaluation_tools,
    repair_jaccard_distance,
    repair_progress,
    repair_rank,
)
from metabin_plugin.compat.imports import import_fastreid, repair_numpy_bool, repair_typed_storage
from metabin_plugin.compat.launching import repair_launch
from metabin_plugin.compat.networks import (
    repair_regnet_config,
    repair_resnext_depth,
    repair_weight_urls,
)
from metabin_plugin.compat.runs import (
    repair_checkpointer,
    repair_config_files,
    repair_log_file,
    repair_run_setup,
)
from metabin_plugin.compat.training import (
    repair_distillation,
    repair_distributed_model,
    repair_layer_freezing,
    repair_loss_precision,
    repair_memory_queue,
    repair_metrics,
    repair_mixed_precision,
    repair_profiler,
    repair_zero_grad,
)

REPAIRS: tuple[Callable[[], None], ...] = (
    import_fastreid,
    repair_config_files,
    repair_data_loader,
    repair_image_reading,
    repair_metrics,
    repair_evaluation_tools,
    repair_evaluation_mode,
    repair_rank,
    repair_numpy_bool,
    repair_launch,
    repair_distributed_model,
    repair_mixed_precision,
    repair_loss_precision,
    repair_jaccard_distance,
    repair_euclidean_distance,
    repair_preprocessing,
    repair_zero_grad,
    repair_layer_freezing,
    repair_random_affine,
    repair_memory_queue,
    repair_distillation,
    repair_regnet_config,
    repair_resnext_depth,
    repair_weight_urls,
    repair_typed_storage,
    repair_checkpointer,
    repair_profiler,
    repair_progress,
    repair_log_file,
    repair_run_setup,
)


def apply() -> None:
    """Mend fastreid, in this process, for the Python and PyTorch at hand.

    Idempotent, and what is not broken is left alone. Each repair names its fault in its docstring.
    """
    for repair in REPAIRS:
        repair()
