"""The addresses of RegNet's and EfficientNet's weights name the networks that they are of."""

from __future__ import annotations

from fastreid.modeling.backbones.regnet import effnet, regnet

# As pycls names them: in megaflops below a thousand, else in gigaflops.
REGNETS = {"800": "800MF", "1600": "1.6GF", "3200": "3.2GF", "4000": "4.0GF", "6400": "6.4GF"}


def test_each_address_has_the_name_of_its_network() -> None:
    for depth, url in regnet.model_urls.items():
        assert url.endswith(f"/RegNet{depth[-1].upper()}-{REGNETS[depth[:-1]]}_dds_8gpu.pyth")
    assert {f"/EN-{depth.upper()}_dds" in url for depth, url in effnet.model_urls.items()} == {True}


def test_no_two_networks_of_the_builder_have_one_address() -> None:
    depths = ("b0", "b1", "b2", "b3", "b4", "b5")
    folders = [effnet.model_urls[depth].split("/")[-2] for depth in depths]
    assert len(set(folders)) == len(folders)
