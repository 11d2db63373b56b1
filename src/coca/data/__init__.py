"""Samples on disk to batches of tensors."""

# Imported so that their kinds are in the registry whenever any part of this room is used.
from coca.data import class_folders as class_folders
from coca.data import coco_captions as coco_captions
from coca.data import coco_instances as coco_instances
from coca.data import daquar as daquar
from coca.data import easy_vqa as easy_vqa
from coca.data import folder as folder
from coca.data import karpathy as karpathy
from coca.data import kinetics as kinetics
from coca.data import manifest as manifest
from coca.data import msrvtt as msrvtt
from coca.data import nlvr as nlvr
from coca.data import shards as shards
from coca.data import snli_ve as snli_ve
from coca.data import video_folder as video_folder
from coca.data import vqa as vqa
from coca.data import zipped as zipped
