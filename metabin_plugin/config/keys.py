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
        comment="fastreid counts SOLVER.STEPS from the end of warm-up or DELAY_EPOCHS. True "
        'counts them from the start of training, as the paper does ("0.1x at 40 and 70 epochs").',
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
        "Margin and label smoothing are those of MODEL.LOSSES, and nothing else: distances are "
        "Euclidean, of raw features before the BNNeck, to the hardest samples.",
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
        "METABIN.INNER_DIRECTION",
        "gradient",
        Choice(("gradient", "random")),
        comment='Where the inner step (Eq. 9) goes: down the "gradient" of the meta-train loss, or '
        '"random", as far as the gradient would in every layer but in a direction that is drawn in '
        "each iteration. A control: what does the lookahead itself give?",
    ),
    Key(
        "METABIN.OUTER_LR",
        0.1,
        Number(0, _LARGEST_STEP),
        comment="Outer step size (Eq. 10), of plain SGD on the gates.",
        symbol="gamma",
    ),
    Key(
        "METABIN.OUTER_LR_WARMUP",
        False,
        comment="True multiplies the outer step size by the warm-up factor of the base step's "
        "(SOLVER.WARMUP_ITERS, WARMUP_FACTOR, WARMUP_METHOD). Behind the warm-up it is constant as "
        "before, without the decay of SOLVER.STEPS.",
    ),
    Key(
        "METABIN.OUTER_LOSS",
        "meta-test",
        Choice(("meta-test", "sum")),
        comment='What the outer step (Eq. 10) descends: the "meta-test" loss at the moved gates, '
        'or the "sum" of it and of the meta-train loss at the gates themselves, as in MLDG. With '
        "INNER_LR 0 the sum is plain SGD on both losses.",
    ),
    Key(
        "METABIN.FREEZE_AFTER",
        0,
        Count(0),
        comment="Iterations after which the meta step ends and the gates stay as they are; 0 for "
        "never. What follows costs what training without meta-learning costs.",
    ),
    Key(
        "METABIN.AVERAGE.DECAY",
        0.0,
        Number(0, 0.999999),
        comment="Decay of an exponential moving average of the network over the iterations, which "
        "is then what is evaluated and saved; 0 for none. In update n it is at most (1 + n) / "
        "(10 + n), so that short trainings have an average too.",
    ),
    Key(
        "METABIN.AVERAGE.OF",
        "all",
        Choice(("all", "gates")),
        comment='What of the network is averaged: "all" weights, gates and running statistics, or '
        'the "gates" alone, beside the last weights and statistics.',
    ),
    Key(
        "METABIN.BASE_LOSSES",
        (),
        Names(Registered("BASE_LOSS_REGISTRY")),
        comment='Losses of the base step beside those of MODEL.LOSSES: "Alignment", "Uniformity" '
        'and "DomainUniformity" (BAU, NeurIPS 2024), "InterleavedMemory" (interleaved learning, '
        "IEEE TMM 2023), and what else is registered. They need META_ARCHITECTURE MetaBIN or "
        "BaselineWithLosses.",
    ),
    Key(
        "METABIN.STRONG_VIEW.PROB",
        0.5,
        Number(0, 1),
        comment="Probability of each strong augmentation (RandAugment, colour jitter, random "
        "erasing) of the second view, which the losses of BAU alone see.",
    ),
    Key(
        "METABIN.ALIGNMENT.SCALE",
        1.5,
        Number(0, _LARGEST_STEP),
        comment="Weight of the loss Alignment.",
        symbol="lambda",
    ),
    Key(
        "METABIN.ALIGNMENT.NEIGHBOURS",
        10,
        Count(1),
        comment="Nearest samples among which those are looked for that are reciprocal neighbours, "
        "for the weight of each pair.",
        symbol="k",
    ),
    Key(
        "METABIN.UNIFORMITY.SCALE",
        1.0,
        Number(0, _LARGEST_STEP),
        comment="Weight of the loss Uniformity.",
    ),
    Key(
        "METABIN.DOMAIN_UNIFORMITY.SCALE",
        1.0,
        Number(0, _LARGEST_STEP),
        comment="Weight of the loss DomainUniformity.",
    ),
    Key(
        "METABIN.DOMAIN_UNIFORMITY.MOMENTUM",
        0.1,
        Number(0, 1),
        comment="Share of an identity's former prototype that stays when a batch shows it.",
        symbol="m",
    ),
    Key(
        "METABIN.INTERLEAVED_MEMORY.SCALE",
        1.0,
        Number(0, _LARGEST_STEP),
        comment="Weight of the loss InterleavedMemory.",
    ),
    Key(
        "METABIN.INTERLEAVED_MEMORY.TEMPERATURE",
        0.05,
        Number(0.001, _LARGEST_STEP),
        comment="What cosines are divided by before the softmax over the identities of a domain.",
    ),
    Key(
        "METABIN.INTERLEAVED_MEMORY.MOMENTUM",
        0.2,
        Number(0, 1),
        comment="Share of an identity's former feature that stays when a batch shows it.",
    ),
    Key(
        "METABIN.INTERLEAVED_MEMORY.STYLE_REACH",
        3.0,
        Number(0, _LARGEST_STEP),
        comment="How many standard deviations a drawn style may be from the batch's average one.",
    ),
    Key(
        "METABIN.INTERLEAVED_MEMORY.LAYERS",
        (),
        Names(),
        comment="Parts of the backbone behind which styles are drawn. () is the end of the first "
        "stage of a backbone that the plugin knows: layer1 of ResNet, features.3 of MobileNetV2.",
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
        "METABIN.GRAPH_SAMPLER.PERIOD",
        200,
        Count(1),
        comment="With DATALOADER.SAMPLER_TRAIN GraphSampler: iterations between two graphs of "
        "which identities of a domain look alike (graph sampling, CVPR 2022; there an epoch). The "
        "first is made before the first iteration.",
    ),
    Key(
        "METABIN.GRAPH_SAMPLER.MAX_IDENTITIES",
        256,
        Count(2),
        comment="Identities of each domain in a graph, drawn anew for each; one image of each goes "
        "through the network, which is what a graph costs.",
    ),
    Key(
        "METABIN.MIXSTYLE.PROBABILITY",
        0.0,
        Number(0, 1),
        comment="How probably each layer of LAYERS mixes the styles of a training batch (MixStyle, "
        "ICLR 2021; there 0.5). 0 is off. The base step alone mixes: the meta step compares "
        "domains as they are.",
    ),
    Key(
        "METABIN.MIXSTYLE.ALPHA",
        0.1,
        Number(0.01, 1000),
        comment="Of Beta(ALPHA, ALPHA), from which each image draws the share of its own style.",
    ),
    Key(
        "METABIN.MIXSTYLE.LAYERS",
        (),
        Names(),
        comment="Parts of the backbone behind which styles are mixed. () is the ends of "
        "the first stages of a backbone that the plugin knows: layer1 and layer2 of ResNet, "
        "features.3 and features.6 of MobileNetV2.",
    ),
    Key(
        "METABIN.MIXSTYLE.PARTNERS",
        "domain",
        Choice(("domain", "any")),
        comment='With whose style an image\'s is mixed: "domain" takes an image of another domain, '
        '"any" shuffles the batch.',
    ),
    Key(
        "METABIN.TEST.CAMERA_STANDARDIZATION",
        False,
        comment="True evaluates a second time, on features standardized by camera (ICLR 2025): "
        "further columns, named <metric>_by_camera. They look at the target's images, without "
        "their identities. A target without cameras (i-LIDS) counts as one.",
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
