"""fastreid's DefaultTrainer with the plugin wired in."""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import re
import signal
import weakref
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer, default_setup, hooks
from fastreid.engine.train_loop import HookBase
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.env import seed_all_rng
from fastreid.utils.events import EventStorage, JSONWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from metabin_plugin.compat.networks import momentum_teacher, start_momentum_teacher
from metabin_plugin.compat.patching import patch
from metabin_plugin.compat.training import count_frozen_iterations, use_dtype
from metabin_plugin.config.changes import config_changes, refuse_another_run
from metabin_plugin.config.check import checked
from metabin_plugin.config.reading import read_config
from metabin_plugin.config.table import shown_value
from metabin_plugin.data.build import check_statistics_data, check_targets, require_matches
from metabin_plugin.data.domains import require_domains, require_one_domain_each, training_record
from metabin_plugin.data.resumable import ResumableBatches
from metabin_plugin.data.sampler import GraphSampler
from metabin_plugin.engine.averaging import WeightAverage
from metabin_plugin.engine.checkpoint_schema import check_checkpoint, check_progress
from metabin_plugin.engine.checkpoints import CheckpointHook
from metabin_plugin.engine.finite import finite_base_step
from metabin_plugin.engine.graph_sampling import GraphHook
from metabin_plugin.engine.half_precision import check_convolutions_once
from metabin_plugin.engine.log import (
    FeatureWatch,
    GateLog,
    RunStorage,
    cut_metrics_file,
    live_lines,
)
from metabin_plugin.engine.network_options import build_network
from metabin_plugin.engine.progress import Resumption, optimizer_settings, refuse_other_data
from metabin_plugin.engine.stop_signals import Stopped, StopSignals
from metabin_plugin.environment import keep_freed_memory
from metabin_plugin.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    MetaBINError,
    RunFolderError,
    WeightsError,
)
from metabin_plugin.evaluation import build_evaluator, write_results
from metabin_plugin.files import reason
from metabin_plugin.modeling import BaselineWithLosses, IdentityMemory, MemoryStates
from metabin_plugin.norm import clip_gates_, gate_parameters
from metabin_plugin.processes import share_buffers
from metabin_plugin.registries import HOOK_REGISTRY
from metabin_plugin.run_folder import (
    METRICS,
    begin_run,
    end_run,
    in_main_process,
    prepare_folder,
    trace_of_run,
    write_config,
)
from metabin_plugin.weights.checkpointer import network_state

logger = logging.getLogger(__name__)

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@patch(
    "fastreid.engine.defaults:DefaultTrainer",
    fault="Scripts name this class, which has no place for a step besides the base step, and whose "
    "checkpoints hold neither the streams of random numbers nor the place in the data.",
    unless=None,
)
class MetaBINTrainer(DefaultTrainer):
    """Trains what the config says; with a config that uses nothing of the plugin, as fastreid does.

    It adds to ``DefaultTrainer``: an early check of the config, the seed, hooks by name
    (``METABIN.HOOKS``; they run inside the measured iteration), the length of an epoch, the number
    of base updates in the first iteration, a results file, and checkpoints from which a run goes
    on exactly as if it had never been interrupted.

    Args:
        cfg: the config with the METABIN node.

    Attributes:
        start_iter: number of the first iteration.
        base_batches: stream of the training's batches. The base step draws from it, and so do hooks
            without a stream of their own.

    Raises:
        MetaBINError: config or data cannot work.
    """

    def __init__(self, cfg: CfgNode) -> None:
        with checked(cfg):
            if cfg.OUTPUT_DIR:
                in_main_process(lambda: prepare_folder(cfg.OUTPUT_DIR))
            if cfg.TEST.EVAL_PERIOD > 0:
                check_targets(cfg.DATASETS.TESTS)
            check_statistics_data(cfg)
            if cfg.METABIN.SEED >= 0:
                seed_all_rng(cfg.METABIN.SEED + comm.get_rank())
            self._configured_iters = cfg.METABIN.ITERS_PER_EPOCH
            self.start_iter = 0
            self._resumes = False
            self._resumption: Resumption | None = None
            super().__init__(cfg)
        if cfg.SOLVER.AMP.ENABLED:
            use_dtype(self._trainer, cfg.SOLVER.AMP.DTYPE)
            check_convolutions_once(cfg, self.network)
        states: dict[str, Any] = {"checkpoints": self._checkpoints, **self._named_hooks}
        if self.grad_scaler is not None:
            states["grad_scaler"] = self.grad_scaler
        teacher = momentum_teacher(self.network)
        if teacher is not None:
            start_momentum_teacher(self.network)
            states["momentum_teacher"] = teacher
        if self._average is not None:
            states["average"] = self._average
            # A checkpoint's model is what is evaluated, for whatever reads it.
            self.checkpointer.model = self._average.network
        states |= self._memories()
        self.checkpointer.checkpointables.update(
            {name: holder for name, holder in states.items() if hasattr(holder, "state_dict")}
        )

    def _memories(self) -> dict[str, MemoryStates]:
        """What the losses of ``METABIN.BASE_LOSSES`` keep, for the checkpoints."""
        losses = getattr(self.network, "base_losses", None)
        if not losses:
            return {}
        _require_views(self.cfg, losses, self.data_loader.dataset)
        if not any(True for _ in losses.buffers()):
            return {}
        if any(isinstance(part, IdentityMemory) for part in losses.modules()):
            require_one_domain_each(self.data_loader.dataset)
        return {"base_losses": MemoryStates(losses)}

    @property
    def network(self) -> Any:
        """The network that is trained, without the wrapper that several processes need."""
        model = self.model
        return model.module if isinstance(model, DistributedDataParallel) else model

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved: the averaged one, where there is one."""
        return self.model if self._average is None else self._average.network

    def hook(self, which: str | type[HookBase]) -> Any:
        """The hook of a name in ``METABIN.HOOKS``, or the first of a class.

        Raises:
            LookupError: the trainer has no such hook.
        """
        if isinstance(which, str):
            found = self._named_hooks.get(which)
        else:
            found = next((hook for hook in self._hooks if isinstance(hook, which)), None)
        if found is None:
            raise LookupError(f"the trainer has no hook {which!r}")
        return found

    @functools.cached_property
    def training_data(self) -> dict[str, Any]:
        """``training_record`` of the images of the base step."""
        return training_record(self.data_loader.dataset)

    @property
    def iters_per_epoch(self) -> int:
        """Iterations in an epoch: ``METABIN.ITERS_PER_EPOCH``, or fastreid's rule where it is 0."""
        return self._iters_per_epoch

    @iters_per_epoch.setter
    def iters_per_epoch(self, value: int) -> None:
        # DefaultTrainer assigns this in its constructor, before it builds schedules and hooks.
        self._iters_per_epoch = self._configured_iters or value
        if self._iters_per_epoch == 0:
            raise ConfigError(
                "SOLVER.IMS_PER_BATCH is larger than the training set, which leaves epochs without "
                "an iteration; lower it, or set METABIN.ITERS_PER_EPOCH"
            )

    def build_hooks(self) -> list[HookBase]:
        """fastreid's hooks behind those of ``METABIN.HOOKS``, so that its timer measures them.

        With ``GraphSampler`` the hook that keeps its graph is among the latter.

        The plugin's checkpoints take the place of fastreid's, last of all: a checkpoint is then
        made when everything else of its iteration is done. On a terminal a live line shows how the
        training stands.
        """
        # All else of the trainer is there, and nothing has been drawn.
        self.base_batches = self._trainer._data_loader_iter
        self._trainer._data_loader_iter = _BaseStepBatches(weakref.proxy(self))
        self._named_hooks = {
            name: HOOK_REGISTRY.get(name)(self.cfg, self) for name in self.cfg.METABIN.HOOKS
        }
        for name, hook in self._named_hooks.items():
            if not isinstance(hook, HookBase):
                raise ConfigError(
                    f"METABIN.HOOKS has {name!r}, whose entry gave a {type(hook).__name__}; derive "
                    "it from fastreid's HookBase"
                )
        if GraphSampler.__name__ == self.cfg.DATALOADER.SAMPLER_TRAIN:
            self._named_hooks["GraphHook"] = GraphHook(self.cfg, self)
        self._checkpoints = CheckpointHook(self.cfg)
        self._average = (
            WeightAverage(self.cfg, self.network) if self.cfg.METABIN.AVERAGE.DECAY else None
        )
        own = list(self._named_hooks.values())
        if any(gate.requires_grad for gate in gate_parameters(self.network).values()):
            # Eq. 1: rho in [0, 1]; the first iteration may have several steps.
            clip = functools.partial(clip_gates_, self.network)
            self.optimizer.register_step_post_hook(lambda *_: clip())
        if self._average is not None:
            own.append(self._average)
        left_out: tuple[type, ...] = (hooks.PeriodicCheckpointer,)
        if self.cfg.TEST.EVAL_PERIOD == 0:
            left_out += (hooks.EvalHook,)
        fastreids = [hook for hook in super().build_hooks() if not isinstance(hook, left_out)]
        for hook in fastreids:
            if isinstance(hook, hooks.PreciseBN):
                hook._model = self.evaluated
            elif isinstance(hook, hooks.EvalHook):
                hook._func = self._evaluate
        return [*own, *fastreids, *live_lines(), self._checkpoints]

    def build_writers(self) -> list[Any]:
        """fastreid's writers of the log, and where there are gates two before them."""
        gates, losses = gate_parameters(self.model), self.cfg.MODEL.LOSSES
        raw_triplets = "TripletLoss" in losses.NAME and not losses.TRI.NORM_FEAT
        watch = FeatureWatch(raw_triplets, self.cfg.SOLVER.BASE_LR)
        own = [GateLog(gates), watch] if gates else []
        self._writers = [*own, *super().build_writers()]
        return self._writers

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS``.

        Args:
            resume: whether to look for a checkpoint.

        Raises:
            ConfigError: the checkpoint's run had a key otherwise that a run cannot change.
            WeightsError: the file is damaged, is not a checkpoint or does not fit the run; or there
                are checkpoints, but none to go on from, or processes would go on from others.
            DatasetError: it is of other training data.
        """
        self._resumes = resume
        # Looked for once: without a last_checkpoint, files are read whole to find one.
        source = self.checkpointer.get_checkpoint_file() if resume else ""
        _require_one_source(source, self.cfg.OUTPUT_DIR)
        if not source:
            if resume and self.cfg.OUTPUT_DIR and trace_of_run(self.cfg.OUTPUT_DIR):
                logger.warning(
                    "OUTPUT_DIR %s has no checkpoint to go on from: the run starts anew",
                    self.cfg.OUTPUT_DIR,
                )
            self.checkpointer.partial = self.cfg.METABIN.PARTIAL_WEIGHTS
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            if self._average is not None:
                self._average.start_from_average()
            start_momentum_teacher(self.network)
            return
        self._resume(source)

    def _resume(self, source: str) -> None:
        # Before the states are loaded, which hold the settings of the checkpoint's run.
        settings = optimizer_settings(self.optimizer)
        check = functools.partial(self._check_checkpoint, source=source)
        content = self.checkpointer.load(source, check=check)
        run = self._resumption = Resumption(content, source, self.cfg, self.iters_per_epoch)
        run.report()
        self.start_epoch, self.start_iter = run.epoch, run.iteration
        build = functools.partial(
            self.build_lr_scheduler, self.cfg, self.optimizer, self.iters_per_epoch
        )
        if run.renew_schedules(self.optimizer, settings, self.scheduler, build):
            self.checkpointer.checkpointables.pop("warmup_sched", None)
            self.checkpointer.checkpointables.update(self.scheduler)
        run.restore_batches(self.base_batches)
        if not run.keeps_best:
            self._checkpoints.forget_best()

    def _check_checkpoint(self, content: dict[str, Any], source: str) -> None:
        """Refuse a checkpoint from which this run cannot go on; nothing of it is applied here."""
        check_checkpoint(content, source)
        refuse_other_data(content, self.data_loader.dataset, self.training_data, source)
        if self._average is not None and "average" not in content:
            content["average"] = {"updates": 0, "model": network_state(content, source)}
        if momentum_teacher(self.network) is not None and "momentum_teacher" not in content:
            content["momentum_teacher"] = network_state(content, source)
        if "config" in content:
            refuse_another_run(content["config"], self.cfg, self.network, source)
            changes = config_changes(content["config"], self.cfg)
            if any(change.key == "SOLVER.SCHED" for change in changes):
                # The state of another schedule is of no use to this one, which is made anew.
                content["lr_sched"] = self.scheduler["lr_sched"].state_dict()
        check_progress(content, self.cfg, self.iters_per_epoch, source)

    def train(self) -> Any:
        """Train from ``start_iter`` to the last epoch.

        SIGTERM or Ctrl-C ends it after the iteration at hand, with a checkpoint.

        Returns:
            The results of the last evaluation; None if there was none.

        Raises:
            MetaBINError: data, numbers or a full disk allow no further iteration.
            Stopped: a signal asked for it.
        """
        folder = self.cfg.OUTPUT_DIR
        self.iter, self.epoch = self.start_iter, min(self.start_epoch, self.max_epoch - 1)
        try:
            if folder:
                in_main_process(self._begin)
            return self._train()
        finally:
            if folder and comm.is_main_process():
                end_run(folder)

    def _begin(self) -> None:
        """Take the folder, and rid it of what this run will write again."""
        folder = self.cfg.OUTPUT_DIR
        begin_run(folder, self._resumes)
        write_config(folder, self.cfg.dump())
        if not self._resumes:
            return
        try:
            last = cut_metrics_file(os.path.join(folder, METRICS), self.start_iter)
        except OSError as error:
            raise RunFolderError(
                f"{METRICS} in OUTPUT_DIR {folder} cannot be written ({reason(error)}); make it "
                "writable, or remove it"
            ) from error
        for writer in self._writers:
            if isinstance(writer, (JSONWriter, TensorboardXWriter)):
                writer._last_write = last

    def _train(self) -> Any:
        resumed = self._resumption
        storage = EventStorage(self.iter) if resumed is None else RunStorage(self.iter)
        with StopSignals() as self._signals, storage as self.storage:
            try:
                self.before_train()
                if resumed is not None:
                    resumed.restore_history(self.storage)
                    # What the end of an epoch writes belongs to the iteration before.
                    self.storage.iter = max(self.iter - 1, 0)
                    resumed.restore_randomness()
                # A sampler may have a long way to go, and nothing is lost yet.
                with self._signals.raising():
                    self._start_loading()
                self._train_epochs()
                with self._signals.raising():
                    self.after_train()
                    self._test_a_finished_run()
            except (Exception, Stopped) as error:
                fault = self._fault_of_folder(error)
                self._close(fault or error)
                if fault is not None:
                    raise fault from error
                raise
        return getattr(self, "_last_eval_results", None)

    def _start_loading(self) -> None:
        if self.start_epoch >= self.max_epoch:
            return
        hooks_batches = [getattr(hook, "batches", None) for hook in self._named_hooks.values()]
        for batches in (self.base_batches, *hooks_batches):
            if isinstance(batches, ResumableBatches):
                batches.start()

    def _train_epochs(self) -> None:
        logger.info("Starting training from epoch %d, iteration %d", self.epoch, self.iter)
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            while self.iter < (self.epoch + 1) * self.iters_per_epoch:
                self.before_step()
                self.run_step()
                self.after_step()
                self.iter += 1
                self._stop_if_asked(self.epoch - 1)
            self._finish_epoch()
            self._stop_if_asked(self.epoch)

    def _test_a_finished_run(self) -> None:
        """Evaluate when nothing was left to train and no hook has done it."""
        was_finished = self.start_epoch >= self.max_epoch
        evaluates = self.cfg.TEST.EVAL_PERIOD > 0
        if was_finished and evaluates and not hasattr(self, "_last_eval_results"):
            self._evaluate()

    def _evaluate(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.evaluated)
        return self._last_eval_results

    def _finish_epoch(self) -> None:
        period = self.cfg.TEST.EVAL_PERIOD
        if period == 0 or (self.epoch + 1) % period != 0:
            self.after_epoch()
            return
        self._checkpoints.save_before_test()
        with self._signals.raising():
            self.after_epoch()

    def _stop_if_asked(self, finished_epoch: int) -> None:
        number = self._signals.agreed()
        if number:
            self._checkpoints.save_before_stop(finished_epoch)
            raise Stopped(number)

    def _fault_of_folder(self, error: BaseException) -> MetaBINError | None:
        """The sentence for an error of writing that is the folder's fault; None for any other."""
        folder = self.cfg.OUTPUT_DIR
        if not folder or not isinstance(error, (OSError, CheckpointError, RunFolderError)):
            return None
        if not os.path.isdir(folder):
            return RunFolderError(
                f"OUTPUT_DIR {folder} was removed or renamed while the run wrote into it; put it "
                "back and go on with --resume, or start again"
            )
        if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
            return CheckpointError(
                f"OUTPUT_DIR {folder}: {error.strerror}; free some space and go on from the last "
                "checkpoint with --resume"
            )
        return None

    def _close(self, error: BaseException) -> None:
        """End a run that cannot go on: log why, and let the hooks close what they have open."""
        if isinstance(error, Stopped):
            name = signal.Signals(error.number).name
            logger.warning("%s: stopped before iteration %d; --resume goes on", name, self.iter)
        else:
            logger.error("Exception during training:", exc_info=error)
        for hook in self._hooks:
            # fastreid's would evaluate what has just failed.
            if isinstance(hook, hooks.EvalHook):
                continue
            try:
                hook.after_train()
            except Exception as failure:
                logger.debug("%s could not close: %s", type(hook).__name__, failure)

    def run_step(self) -> None:
        """Base step; ``METABIN.FIRST_BASE_UPDATES`` of them in the very first iteration."""
        updates = self.cfg.METABIN.FIRST_BASE_UPDATES if self.iter == 0 else 1
        with finite_base_step(self):
            for _ in range(updates):
                count_frozen_iterations(self.optimizer, self.iter)
                super().run_step()
                if isinstance(self.network, BaselineWithLosses):
                    self.network.update_base_losses()

    @staticmethod
    def auto_scale_hyperparams(cfg: CfgNode, num_classes: int) -> CfgNode:
        """The config with the number of identities, where ``MODEL.HEADS.NUM_CLASSES`` is 0.

        fastreid's also writes it to ``OUTPUT_DIR``, which is another run's until this one begins.

        Raises:
            ConfigError: there are more identities than ``MODEL.HEADS.NUM_CLASSES``.
        """
        cfg = cfg.clone()
        if 0 < cfg.MODEL.HEADS.NUM_CLASSES < num_classes:
            raise ConfigError(
                f"MODEL.HEADS.NUM_CLASSES is {cfg.MODEL.HEADS.NUM_CLASSES!r}, but the training "
                f"images show {num_classes} identities; set it to 0, which counts them"
            )
        if cfg.MODEL.HEADS.NUM_CLASSES == 0:
            was_frozen = cfg.is_frozen()
            cfg.defrost()
            cfg.MODEL.HEADS.NUM_CLASSES = num_classes
            logger.info("MODEL.HEADS.NUM_CLASSES is that of the training data: %d", num_classes)
            if was_frozen:
                cfg.freeze()
        return cfg

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """fastreid's ``build_model`` on a checked config, computing as the METABIN node says.

        With ``METABIN.KEEP_MEMORY`` and a network on CPU the process keeps freed memory from here
        on.
        """
        with checked(cfg):
            if cfg.METABIN.KEEP_MEMORY and torch.device(cfg.MODEL.DEVICE).type == "cpu":
                keep_freed_memory()
            device = torch.device(cfg.MODEL.DEVICE)
            if device.index is not None and device.type == "cuda":
                # Kernels, streams and graphs are those of the current one.
                torch.cuda.set_device(device)
            return build_network(super().build_model, cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Any:
        """fastreid's ``build_optimizer``.

        Raises:
            ConfigError: ``MODEL.FREEZE_LAYERS`` would freeze nothing.
        """
        if cfg.SOLVER.FREEZE_ITERS > 0:
            _check_frozen_layers(cfg.MODEL.FREEZE_LAYERS, model)
        return super().build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None
    ) -> tuple[Any, Any]:
        """Loader and evaluator of a target; each image is read once, however many its splits."""
        loader, num_query = cls.build_test_loader(cfg, dataset_name)
        require_matches(dataset_name, getattr(loader.dataset, "splits", ()))
        return build_evaluator(cfg, loader, num_query, output_dir)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """fastreid's ``test``; ``OUTPUT_DIR`` has the results as ``results.json`` and ``.csv``.

        Raises:
            RunFolderError: they cannot be written there.
        """
        share_buffers(model)
        results = super().test(cfg, model)
        if comm.is_main_process() and cfg.OUTPUT_DIR:
            try:
                write_results(results, cfg.DATASETS.TESTS, cfg.OUTPUT_DIR)
            except OSError as error:
                raise RunFolderError(
                    "the results, which are printed above, cannot be written to OUTPUT_DIR "
                    f"{cfg.OUTPUT_DIR} ({reason(error)}); free some space, or give another"
                ) from error
        return results

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: Optimizer, iters_per_epoch: int
    ) -> dict[str, Any]:
        """fastreid's schedules, with ``METABIN.STEPS_COUNT_WARMUP`` honoured.

        Raises:
            ConfigError: there is no epoch for a cosine.
        """
        _check_cosine(cfg.SOLVER, iters_per_epoch)
        if cfg.METABIN.STEPS_COUNT_WARMUP:
            cfg = steps_from_start(cfg, iters_per_epoch)
        return super().build_lr_scheduler(cfg, optimizer, iters_per_epoch)


class _BaseStepBatches(Iterator[Any]):
    """What the base step draws: the trainer's stream, as the hooks want it.

    Args:
        trainer: a weak reference, so that dropping the trainer ends the loader's workers.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def __next__(self) -> Any:
        try:
            batch = next(self._trainer.base_batches)
        except StopIteration:
            raise ConfigError(
                "DATALOADER.SAMPLER_TRAIN "
                f"{self._trainer.cfg.DATALOADER.SAMPLER_TRAIN} has no further images at "
                f"iteration {self._trainer.iter}; let it begin anew at its end"
            ) from None
        for hook in self._trainer._named_hooks.values():
            if hasattr(hook, "base_batch"):
                batch = hook.base_batch(batch)
        return batch


def _require_views(cfg: CfgNode, losses: nn.ModuleDict, dataset: Any) -> None:
    """Refuse data of one's own that lack what ``METABIN.BASE_LOSSES`` see of them."""
    require_domains(dataset, f"METABIN.BASE_LOSSES is {tuple(cfg.METABIN.BASE_LOSSES)!r}")
    has_view = getattr(dataset, "strong_transform", None) is not None
    for name, loss in losses.items():
        if getattr(loss, "needs_strong_view", False) and not has_view:
            raise DatasetError(
                f"METABIN.BASE_LOSSES has {name}, which needs a second view of each image, but the "
                f"{type(dataset).__name__} of the loader has no strong_transform; set it to "
                "metabin_plugin.data.build.strong_view(cfg)"
            )


def _require_one_source(source: str, folder: str) -> None:
    """Refuse processes that would go on from different checkpoints, as on different machines."""
    names = comm.all_gather(os.path.basename(source))
    for rank, name in enumerate(names):
        if name != names[0]:
            own, other = (found or "no checkpoint" for found in (names[0], name))
            raise WeightsError(
                f"--resume would go on from OUTPUT_DIR {folder} in rank 0 from {own}, in rank "
                f"{rank} from {other}; give a folder that all machines share, or copy rank 0's to "
                "the others"
            )


def _check_frozen_layers(patterns: Sequence[str], network: nn.Module) -> None:
    # fastreid freezes what it finds, and of the rest says nothing that anybody would see.
    # Gates that the meta step moves are not the optimizer's, and nothing of it can freeze them.
    names = [name for name, own in network.named_parameters() if own.requires_grad]
    for pattern in patterns:
        try:
            is_found = any(re.match(pattern, name) for name in names)
        except re.error:
            is_found = False
        if not is_found:
            raise ConfigError(
                f"MODEL.FREEZE_LAYERS has {shown_value(pattern)}, with which the name of no "
                f"parameter of the base step begins; name a part of it, {names[0].split('.')[0]} "
                "for example"
            )


def _check_cosine(solver: CfgNode, iters_per_epoch: int) -> None:
    # fastreid's has a length of 0 then, by which PyTorch divides.
    before = max(math.ceil(solver.WARMUP_ITERS / iters_per_epoch), solver.DELAY_EPOCHS)
    if solver.SCHED == "CosineAnnealingLR" and before >= solver.MAX_EPOCH:
        raise ConfigError(
            f"SOLVER.SCHED is CosineAnnealingLR, but SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} and "
            f"DELAY_EPOCHS {solver.DELAY_EPOCHS} leave it none of the {solver.MAX_EPOCH} epochs; "
            "lower them, or raise SOLVER.MAX_EPOCH"
        )


def steps_from_start(cfg: CfgNode, iters_per_epoch: int) -> CfgNode:
    """A config whose ``SOLVER.STEPS`` make fastreid decay at these epochs of the whole training.

    fastreid's epoch scheduler starts with the epoch in which the warm-up ends, or behind
    ``SOLVER.DELAY_EPOCHS`` where that is later, so its milestones lie later by the epochs before.

    Args:
        cfg: the config; it is not changed.
        iters_per_epoch: iterations in an epoch.

    Returns:
        A copy with the milestones moved back by the epochs that the scheduler does not see.
    """
    in_warmup = math.ceil(cfg.SOLVER.WARMUP_ITERS / iters_per_epoch)
    unseen = max(in_warmup - 1, cfg.SOLVER.DELAY_EPOCHS)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.STEPS = [max(1, step - unseen) for step in cfg.SOLVER.STEPS]
    return cfg


def train_or_evaluate(options: Namespace, trainer: type[MetaBINTrainer] = MetaBINTrainer) -> Any:
    """Train, or with ``--eval-only`` evaluate ``MODEL.WEIGHTS``.

    Args:
        options: what the arguments of ``train``, or fastreid's ``default_argument_parser``, gave.
        trainer: what trains and evaluates.

    Returns:
        The results by target; None if nothing was evaluated.

    Raises:
        MetaBINError: config, data or weights cannot work.
    """
    cfg = read_config(options.config_file, options.opts)
    # Before OUTPUT_DIR is made for a config that cannot work.
    with checked(cfg):
        cfg.freeze()
        default_setup(cfg, options)
        if options.eval_only:
            network = trained_network(cfg, "--eval-only evaluates MODEL.WEIGHTS, which is empty")
            return trainer.test(cfg, network)
        training = trainer(cfg)
        training.resume_or_load(resume=options.resume)
        return training.train()


def trained_network(cfg: CfgNode, if_empty: str) -> nn.Module:
    """The network of a config with ``MODEL.WEIGHTS``; ImageNet weights are not looked for.

    Args:
        cfg: the config; it is not changed.
        if_empty: first part of the sentence that refuses an empty ``MODEL.WEIGHTS``.

    Raises:
        ConfigError: ``MODEL.WEIGHTS`` is empty, or the config cannot work.
        WeightsError: the file is damaged or does not fit.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            f"{if_empty}; add MODEL.WEIGHTS and the path of a checkpoint, "
            "OUTPUT_DIR/model_final.pth for example"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    network = MetaBINTrainer.build_model(cfg)
    Checkpointer(network).load(cfg.MODEL.WEIGHTS)
    return network
