"""The parts of make_backbone_table.py."""
