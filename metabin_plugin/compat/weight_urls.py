"""Three addresses of weights in fastreid that belong to other networks, or to none."""

from __future__ import annotations

_FOLDER = "https://dl.fbaipublicfiles.com/pycls/dds_baselines/"
_REGNETS = {"800x": "160906036/RegNetX-800MF_dds_8gpu.pyth"}
_EFFICIENTNETS = {
    "b3": "161305060/EN-B3_dds_8gpu.pyth",
    "b5": "161305138/EN-B5_dds_8gpu.pyth",
}


def repair_weight_urls() -> None:
    """RegNetX-800MF downloads RegNetX-200MF, and EfficientNet-B3 and -B5 what is not there.

    The right ones are in pycls, which the weights come from.
    """
    from fastreid.modeling.backbones.regnet import effnet, regnet

    for urls, right in (
        (regnet.model_urls, _REGNETS),
        (effnet.model_urls, _EFFICIENTNETS),
    ):
        urls.update({depth: _FOLDER + path for depth, path in right.items()})
