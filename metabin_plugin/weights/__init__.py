"""Files of weights: verified reading and writing, checkpoints, pretrained backbones."""
