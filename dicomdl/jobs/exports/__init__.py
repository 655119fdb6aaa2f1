"""Exports of an index for other programs: nnU-Net, WebDataset, MONAI, Hugging Face, YOLO, pictures.

`exporter.exporter_of` gives the exporter of a format. It writes the files of some stacks, and later
publishes what needs the entries of all: many processes can write, and one publishes.
"""
