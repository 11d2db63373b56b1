"""Samples on disk to batches of tensors."""

# Imported so that their kinds are in the registry whenever any part of this room is used.
from coca.data import class_folders as class_folders
from coca.data import coco_captions as coco_captions
from coca.data import folder as folder
from coca.data import karpathy as karpathy
from coca.data import kinetics as kinetics
from coca.data import manifest as manifest
from coca.data import msrvtt as msrvtt
from coca.data import shards as shards
from coca.data import video_folder as video_folder
from coca.data import zipped as zipped
