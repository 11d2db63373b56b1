"""Datasets: sample sources, storage, and the data loader that makes batches of tensors."""

# Imported to register their kinds of source whenever any part of this package is used.
from coca.data.datasets import coco as coco
from coca.data.datasets import question_answering as question_answering
from coca.data.datasets import statements as statements
from coca.data.datasets import videos as videos
from coca.data.sources import folder as folder
from coca.data.sources import table_source as table_source
from coca.data.sources import video_clips as video_clips
from coca.data.sources import zip_archive as zip_archive
from coca.data.sources.tar import shards as shards
