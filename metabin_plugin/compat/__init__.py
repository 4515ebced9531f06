"""What is broken in fastreid on current Python, PyTorch, NumPy and on CPU: one module per cause."""

from __future__ import annotations

from collections.abc import Callable

from metabin_plugin.compat.checkpoint_files import repair_checkpointer
from metabin_plugin.compat.config_files import repair_config_files
from metabin_plugin.compat.data_loader import repair_data_loader
from metabin_plugin.compat.distances import repair_euclidean_distance, repair_jaccard_distance
from metabin_plugin.compat.distillation import repair_distillation
from metabin_plugin.compat.distributed_model import repair_distributed_model
from metabin_plugin.compat.evaluation_mode import repair_evaluation_mode
from metabin_plugin.compat.evaluation_tools import repair_evaluation_tools
from metabin_plugin.compat.image_reading import repair_image_reading
from metabin_plugin.compat.importing import import_fastreid
from metabin_plugin.compat.launching import repair_launch
from metabin_plugin.compat.layer_freezing import repair_layer_freezing
from metabin_plugin.compat.log_file import repair_log_file
from metabin_plugin.compat.loss_precision import repair_loss_precision
from metabin_plugin.compat.memory_queue import repair_memory_queue
from metabin_plugin.compat.metrics import repair_metrics
from metabin_plugin.compat.mixed_precision import repair_mixed_precision
from metabin_plugin.compat.numpy_bool import repair_numpy_bool
from metabin_plugin.compat.preprocessing import repair_preprocessing
from metabin_plugin.compat.profiler import repair_profiler
from metabin_plugin.compat.progress import repair_progress
from metabin_plugin.compat.random_affine import repair_random_affine
from metabin_plugin.compat.rank import repair_rank
from metabin_plugin.compat.regnet_config import repair_regnet_config
from metabin_plugin.compat.resnext_depth import repair_resnext_depth
from metabin_plugin.compat.run_setup import repair_run_setup
from metabin_plugin.compat.typed_storage import repair_typed_storage
from metabin_plugin.compat.weight_urls import repair_weight_urls
from metabin_plugin.compat.zero_grad import repair_zero_grad

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
