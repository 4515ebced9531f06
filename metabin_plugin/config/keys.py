"""The METABIN config node: every key, with the paper's symbol for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastreid.config import CfgNode


def add_metabin_config(cfg: CfgNode) -> None:
    """Add the ``METABIN`` node with the paper's values, and the plugin's keys of ``SOLVER``.

    A node that is already there is kept. ``metabin_plugin.register()`` calls this on fastreid's
    defaults, so ``get_cfg()`` has the keys.

    Args:
        cfg: a fastreid config, not frozen.
    """
    if "METABIN" in cfg:
        return
    _add_solver_keys(cfg)
    node = type(cfg)()

    # Seed of every random stream: initial weights, augmentation, samplers, domain split.
    # -1 draws a new one for each run, as fastreid does.
    node.SEED = -1

    # What a domain D_k is: "dataset" (an entry of DATASETS.NAMES, or a value of a manifest's
    # domain column) or "camera" (single-source training, Section 4.4).
    node.DOMAIN = "dataset"

    # Iterations in an epoch; 0 is fastreid's rule, images // SOLVER.IMS_PER_BATCH.
    # The paper's 1,849 is not its 121,765 images // 80.
    node.ITERS_PER_EPOCH = 0

    # fastreid counts SOLVER.STEPS from the end of the warm-up. True counts them from the start of
    # training, as the paper does ("0.1x at 40 and 70 epochs").
    node.STEPS_COUNT_WARMUP = False

    # Base updates (Eq. 5) in the very first iteration; the authors' code does 10.
    node.FIRST_BASE_UPDATES = 1

    # Names in HOOK_REGISTRY to run in every iteration. ("MetaLearningHook",) is the
    # meta-learning episode of Algorithm 1, lines 7-15; ("MLDGHook",) is MLDG, its rival in Table 3,
    # for any META_ARCHITECTURE; () trains without meta-learning.
    node.HOOKS = ()

    # True separates the episodes (Section 3.3): the base step moves everything but the gates, the
    # meta step the gates alone. False lets both move all parameters ("MetaBIN w/o episode
    # separation" of Table 3), gates with the base optimizer's step size and no weight decay too.
    node.EPISODE_SEPARATION = True

    # Images in the mini-batch that is split into X_S and X_T; 0 is SOLVER.IMS_PER_BATCH.
    # It holds equally many of each domain.
    node.IMS_PER_BATCH = 0

    # K_S, the number of meta-train domains D_mtr (3 of 5); the others are meta-test, D_mte.
    node.NUM_META_TRAIN = 3

    # Terms of L_mtr (Eq. 8) and of the meta-test loss (Eq. 10). Choices: "ScatterLoss" (Eq. 6),
    # "ShuffleLoss" (Eq. 7), "TripletLoss" (Eq. 3), "CrossEntropyLoss" (Eq. 2), and what is in
    # META_LOSS_REGISTRY beside them. Margin and label smoothing are those of MODEL.LOSSES.
    node.META_TRAIN_LOSSES = ("ScatterLoss", "ShuffleLoss", "TripletLoss")
    node.META_TEST_LOSSES = ("TripletLoss",)

    # How Eq. 6 averages: "sample" over all N_S samples, "domain" per domain and then over domains
    # (the authors' code). The same when domains have equally many samples.
    node.SCATTER_AVERAGE = "sample"

    # False drops the second-order term of Eq. 10's gradient (first-order MAML, Section 4.1).
    node.SECOND_ORDER = False

    # beta of Eq. 9, the inner step size: a triangle from LOW up to HIGH and back. The period is in
    # epochs (the paper names none; the authors' code has 5). LOW == HIGH is a fixed beta.
    node.INNER_LR = type(cfg)()
    node.INNER_LR.LOW = 0.001
    node.INNER_LR.HIGH = 0.1
    node.INNER_LR.PERIOD = 5.0

    # gamma of Eq. 10, the outer step size of plain SGD on the gates.
    node.OUTER_LR = 0.1

    # Iterations between two logs of which way each loss of META_TRAIN_LOSSES would move the gates
    # (Fig. 5); 0 for none. Each costs a forward and a backward pass of the meta-train images for
    # every loss. Which way their sum moves the gates is always logged.
    node.GRADIENT_SIGNS_PERIOD = 0

    # True takes the batch statistics of BIN and of the BNNeck, and the losses that compare images,
    # over the batches of all processes, so that several compute what one would. False leaves each
    # process to its own share, as fastreid does.
    node.SYNC_STATS = False

    # False stops when MODEL.WEIGHTS, or MODEL.BACKBONE.PRETRAIN_PATH of a backbone of fastreid's,
    # does not fit the network exactly. True loads what fits, for fine-tuning on other identities or
    # from a network with another norm.
    node.PARTIAL_WEIGHTS = False

    # How BIN layers (Eq. 1) are computed; the numbers are the same but for rounding. "auto" takes
    # kernels of the plugin's own on a GPU ("triton"), PyTorch's norm kernels on a CPU ("native"),
    # and the autograd formula ("plain") elsewhere; each can be asked for.
    node.NORM_FORM = "auto"

    # True lets the backbone compute in PyTorch's channels_last memory format: for GPUs, where half
    # precision gains. On a CPU convolutions gain and BIN layers lose.
    node.CHANNELS_LAST = False

    # True lets a GPU replay the backbone's passes as CUDA graphs, whose kernels are launched all at
    # once. What cannot be recorded runs as it is, and the log says why.
    node.CUDA_GRAPHS = True

    # True compiles the backbone with torch.compile, for training and evaluation. The first
    # iterations take minutes longer.
    node.COMPILE = False

    # True lets the C library keep freed memory when training on CPU, instead of asking the kernel
    # for fresh pages in every layer. It holds for the whole process; False leaves the library, and
    # a setting of it in the environment, alone.
    node.KEEP_MEMORY = True

    # How far below 1 a gate (rho) may be to be taken for 1, which lets its channel be folded into
    # the convolution when the network is exported, or RepVGG deployed, in [0, 1]. 0 folds what
    # changes no result.
    node.FOLD_TOLERANCE = 0.0

    cfg.METABIN = node


def _add_solver_keys(cfg: CfgNode) -> None:
    if "SOLVER" not in cfg:
        cfg.SOLVER = type(cfg)()
        cfg.SOLVER.AMP = type(cfg)()

    # Iterations between checkpoints inside an epoch, beside those of SOLVER.CHECKPOINT_PERIOD
    # (in epochs); 0 for none.
    cfg.SOLVER.CHECKPOINT_ITERS = 0

    # How many of a run's periodic checkpoints to keep, the newest ones; 0 for all.
    # model_best.pth and model_final.pth are not counted and always kept.
    cfg.SOLVER.CHECKPOINT_KEEP = 0

    # Half-precision type with SOLVER.AMP.ENABLED: "float16" (CUDA only, with a loss scale),
    # "bfloat16", or "auto", which is float16 on CUDA and bfloat16 on CPU.
    cfg.SOLVER.AMP.DTYPE = "auto"
