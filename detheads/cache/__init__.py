"""The feature cache: backbone features of a dataset, extracted once, read at random as fast as from memory.

A cache is a folder: ``manifest.json``, ``annotations.json`` (the dataset's boxes as COCO JSON) and shards
``shard-00000.safetensors``, ... ``build.json`` (the plan) and the small JSON beside each shard tell an
interrupted or repeated build what is already done. ``.checked`` says which files a reader found whole.
"""
