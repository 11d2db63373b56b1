"""Datasets: sample sources, storage, and the data loader that makes batches of tensors."""

# Imported to register their kinds of source whenever any part of this package is used.
from coca.data.datasets import coco_captions as coco_captions
from coca.data.datasets import coco_instances as coco_instances
from coca.data.datasets import daquar as daquar
from coca.data.datasets import easy_vqa as easy_vqa
from coca.data.datasets import karpathy as karpathy
from coca.data.datasets import kinetics as kinetics
from coca.data.datasets import msrvtt as msrvtt
from coca.data.datasets import nlvr as nlvr
from coca.data.datasets import snli_ve as snli_ve
from coca.data.datasets import vqa as vqa
from coca.data.sources import class_folders as class_folders
from coca.data.sources import folder as folder
from coca.data.sources import zip_archive as zip_archive
from coca.data.sources.tables import manifest as manifest
from coca.data.sources.tar import shards as shards
from coca.data.sources.video import video_folder as video_folder
