"""Sounds: spectrograms that models read as images, and CLAP models of transformers.

A decoder draws the first second of an audio file as an image, so that data sources, training,
search and zero-shot classification work with sounds (`sounds.yaml` in this folder trains a model,
`evaluate_sounds.yaml` tests it). `coca.load("clap:NAME")` loads a CLAP model, which reads ten
seconds by its own library. Needs the extra `audio`. See docs/plugins.md.
"""
