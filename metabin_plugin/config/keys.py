"""The plugin's config keys: the METABIN node, and what it adds to fastreid's SOLVER node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metabin_plugin.config.table import Choice, Count, Key, Names, Number, Registered, add_keys

if TYPE_CHECKING:
    from fastreid.config import CfgNode

# numpy.random.seed takes 32 bits.
LARGEST_SEED = 2**32 - 1
# Step sizes multiply float32 gradients; this is the largest number of that type.
_LARGEST_STEP = (2 - 2**-23) * 2.0**127
# Far beyond any run, and its product with the largest epoch is still exact.
_LONGEST_PERIOD = 10**6


# Also of label_domains, which is used on configs that were not checked.
DOMAIN_RULE = Choice(("dataset", "camera"))
_META_LOSSES = Names(
    Registered("META_LOSS_REGISTRY"),
    needs_one=True,
    otherwise="set METABIN.HOOKS () to train without meta-learning",
)

KEYS = (
    Key(
        "METABIN.SEED",
        -1,
        Count(-1, LARGEST_SEED),
        comment="Seed of every random stream: initial weights, augmentation, samplers, domain "
        "split. -1 draws a new one for each run, as fastreid does.",
    ),
    Key(
        "METABIN.DOMAIN",
        "dataset",
        DOMAIN_RULE,
        comment='What a domain is: "dataset" (an entry of DATASETS.NAMES, or a value of a '
        'manifest\'s domain column) or "camera" (single-source training, Section 4.4).',
        symbol="D_k",
    ),
    Key(
        "METABIN.ITERS_PER_EPOCH",
        0,
        Count(0),
        comment="Iterations in an epoch; 0 is fastreid's rule, images // SOLVER.IMS_PER_BATCH. The "
        "paper's 1,849 is not its 121,765 images // 80.",
    ),
    Key(
        "METABIN.STEPS_COUNT_WARMUP",
        False,
        comment="fastreid counts SOLVER.STEPS from the end of the warm-up. True counts them from "
        'the start of training, as the paper does ("0.1x at 40 and 70 epochs").',
    ),
    Key(
        "METABIN.FIRST_BASE_UPDATES",
        1,
        Count(1),
        comment="Base updates (Eq. 5) in the very first iteration; the authors' code does 10.",
    ),
    Key(
        "METABIN.HOOKS",
        (),
        Names(Registered("HOOK_REGISTRY")),
        comment='Hooks to run in every iteration. ("MetaLearningHook",) is the meta-learning '
        'episode of Algorithm 1, lines 7-15; ("MLDGHook",) is MLDG, its rival in Table 3, for any '
        "META_ARCHITECTURE; () trains without meta-learning.",
    ),
    Key(
        "METABIN.EPISODE_SEPARATION",
        True,
        comment="True separates the episodes (Section 3.3): the base step moves everything but the "
        'gates, the meta step the gates alone. False lets both move all parameters ("MetaBIN w/o '
        "episode separation\" of Table 3), gates with the base optimizer's step size and no weight "
        "decay too.",
    ),
    Key(
        "METABIN.IMS_PER_BATCH",
        0,
        Count(0),
        comment="Images in the mini-batch that is split into X_S and X_T; 0 is "
        "SOLVER.IMS_PER_BATCH. It holds equally many of each domain.",
    ),
    Key(
        "METABIN.NUM_META_TRAIN",
        3,
        Count(1),
        comment="Number of meta-train domains D_mtr (3 of 5); the others are meta-test, D_mte.",
        symbol="K_S",
    ),
    Key(
        "METABIN.META_TRAIN_LOSSES",
        ("ScatterLoss", "ShuffleLoss", "TripletLoss"),
        _META_LOSSES,
        comment='Terms of the meta-train loss (Eq. 8): "ScatterLoss" (Eq. 6), "ShuffleLoss" '
        '(Eq. 7), "TripletLoss" (Eq. 3), "CrossEntropyLoss" (Eq. 2), and what else is registered. '
        "Margin and label smoothing are those of MODEL.LOSSES.",
        symbol="L_mtr",
    ),
    Key(
        "METABIN.META_TEST_LOSSES",
        ("TripletLoss",),
        _META_LOSSES,
        comment="Terms of the meta-test loss (Eq. 10), with the choices of META_TRAIN_LOSSES.",
        symbol="L_mte",
    ),
    Key(
        "METABIN.SCATTER_AVERAGE",
        "sample",
        Choice(("sample", "domain")),
        comment='How Eq. 6 averages: "sample" over all N_S samples, "domain" per domain and then '
        "over domains (the authors' code). The same when domains have equally many samples.",
    ),
    Key(
        "METABIN.SECOND_ORDER",
        False,
        comment="False drops the second-order term of Eq. 10's gradient (first-order MAML, "
        "Section 4.1).",
    ),
    Key(
        "METABIN.INNER_LR.LOW",
        0.001,
        Number(0, _LARGEST_STEP),
        comment="Smallest inner step size (Eq. 9). The step size goes in a triangle from LOW up to "
        "HIGH and back; LOW == HIGH keeps it fixed.",
        symbol="beta",
    ),
    Key(
        "METABIN.INNER_LR.HIGH",
        0.1,
        Number(0, _LARGEST_STEP),
        comment="Largest inner step size (Eq. 9).",
        symbol="beta",
    ),
    Key(
        "METABIN.INNER_LR.PERIOD",
        5.0,
        Number(0, _LONGEST_PERIOD),
        comment="Epochs from one smallest inner step size to the next (the paper names none; the "
        "authors' code has 5).",
    ),
    Key(
        "METABIN.OUTER_LR",
        0.1,
        Number(0, _LARGEST_STEP),
        comment="Outer step size (Eq. 10), of plain SGD on the gates.",
        symbol="gamma",
    ),
    Key(
        "METABIN.GRADIENT_SIGNS_PERIOD",
        0,
        Count(0),
        comment="Iterations between two logs of which way each loss of META_TRAIN_LOSSES would "
        "move the gates (Fig. 5); 0 for none. Each costs a forward and a backward pass of the "
        "meta-train images for every loss. Which way their sum moves the gates is always logged.",
    ),
    Key(
        "METABIN.SYNC_STATS",
        False,
        comment="True takes the batch statistics of BIN and of the BNNeck, and the losses that "
        "compare images, over the batches of all processes, so that several compute what one "
        "would. False leaves each process to its own share, as fastreid does.",
    ),
    Key(
        "METABIN.PARTIAL_WEIGHTS",
        False,
        comment="False stops when MODEL.WEIGHTS, or MODEL.BACKBONE.PRETRAIN_PATH of a backbone of "
        "fastreid's, does not fit the network exactly. True loads what fits, for fine-tuning on "
        "other identities or from a network with another norm.",
    ),
    Key(
        "METABIN.NORM_FORM",
        "auto",
        Choice(("auto", "plain", "native", "triton")),
        comment="How BIN layers (Eq. 1) are computed; the numbers are the same but for rounding. "
        '"auto" takes kernels of the plugin\'s own on a GPU ("triton"), PyTorch\'s norm kernels on '
        'a CPU ("native"), and the autograd formula ("plain") elsewhere; each can be asked for.',
    ),
    Key(
        "METABIN.CHANNELS_LAST",
        False,
        comment="True lets the backbone compute in PyTorch's channels_last memory format: for "
        "GPUs, where half precision gains. On a CPU convolutions gain and BIN layers lose.",
    ),
    Key(
        "METABIN.CUDA_GRAPHS",
        True,
        comment="True lets a GPU replay the backbone's passes as CUDA graphs, whose kernels are "
        "launched all at once. What cannot be recorded runs as it is, and the log says why.",
    ),
    Key(
        "METABIN.COMPILE",
        False,
        comment="True compiles the backbone with torch.compile, for training and evaluation. The "
        "first iterations take minutes longer.",
    ),
    Key(
        "METABIN.KEEP_MEMORY",
        True,
        comment="True lets the C library keep freed memory when training on CPU, instead of asking "
        "the kernel for fresh pages in every layer. It holds for the whole process; False leaves "
        "the library, and a setting of it in the environment, alone.",
    ),
    Key(
        "METABIN.FOLD_TOLERANCE",
        0.0,
        Number(0, 1),
        comment="How far below 1 a gate (rho) may be to be taken for 1, which lets its channel be "
        "folded into the convolution when the network is exported, or RepVGG deployed. 0 folds "
        "what changes no result.",
    ),
    Key(
        "METABIN.OPERATING_POINTS",
        True,
        comment="True lets evaluation also say at which distance it is the same person, and how "
        "often that is wrong: operating_points*.csv and operating_points.png in OUTPUT_DIR "
        "(OPERATING_POINTS.md), of plain distances, without TEST.AQE and TEST.RERANK.",
    ),
    Key(
        "SOLVER.CHECKPOINT_ITERS",
        0,
        Count(0),
        comment="Iterations between checkpoints inside an epoch, beside those of "
        "SOLVER.CHECKPOINT_PERIOD (in epochs); 0 for none.",
    ),
    Key(
        "SOLVER.CHECKPOINT_KEEP",
        0,
        Count(0),
        comment="How many of a run's periodic checkpoints to keep, the newest ones; 0 for all. "
        "model_best.pth and model_final.pth are not counted and always kept.",
    ),
    Key(
        "SOLVER.AMP.DTYPE",
        "auto",
        Choice(("auto", "float16", "bfloat16")),
        comment='Half-precision type with SOLVER.AMP.ENABLED: "float16" (CUDA only, with a loss '
        'scale), "bfloat16", or "auto", which is float16 on CUDA and bfloat16 on CPU.',
    ),
)


def add_metabin_config(cfg: CfgNode) -> None:
    """Add the ``METABIN`` node with the paper's values, and the plugin's keys of ``SOLVER``.

    Keys that are already there keep their values. ``metabin_plugin.register()`` calls this on
    fastreid's defaults, so ``get_cfg()`` has the keys.

    Args:
        cfg: a fastreid config, not frozen.
    """
    add_keys(cfg, KEYS)
