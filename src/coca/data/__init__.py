"""Datasets: sample sources, storage, and the data loader that makes batches of tensors."""

# Imported to register their kinds of source whenever any part of this package is used.
from coca.data.datasets import coco as coco
from coca.data.datasets import daquar as daquar
from coca.data.datasets import easy_vqa as easy_vqa
from coca.data.datasets import kinetics as kinetics
from coca.data.datasets import msrvtt as msrvtt
from coca.data.datasets import nlvr as nlvr
from coca.data.datasets import snli_ve as snli_ve
from coca.data.datasets import vqa as vqa
from coca.data.sources import folder as folder
from coca.data.sources import table_source as table_source
from coca.data.sources import video_clips as video_clips
from coca.data.sources import zip_archive as zip_archive
from coca.data.sources.tar import shards as shards
