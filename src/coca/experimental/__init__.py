"""Experimental parts: they work and promise nothing.

Each part is a file or folder here, and comes in as the plug-in of another package would: by a
declaration that pyproject.toml lists as an entry point. All declarations are in this module, which
imports none of the parts. Nothing outside this package imports it.
"""

from coca.core.plugins import Plugin

OPENAI = Plugin(
    adds="Routes of the embeddings API of OpenAI.",
    routes={"openai": "coca.experimental.openai:router"},
)
RAY = Plugin(
    adds="`coca embed-shards`: embed tars with any number of processes, also on a Ray cluster.",
    needs=("pyarrow",),
    install="coca-captioners[data]",
    commands={"embed-shards": "coca.experimental.ray.command:embed_shards"},
)
MLFLOW = Plugin(
    adds="The tracker `mlflow` of training runs.",
    needs=("mlflow",),
    install="coca-captioners[mlflow]",
    trackers={"mlflow": "coca.experimental.trackers.mlflow_tracker:MlflowTracker"},
)
WANDB = Plugin(
    adds="The tracker `wandb` of training runs, for Weights & Biases.",
    needs=("wandb",),
    install="coca-captioners[wandb]",
    trackers={"wandb": "coca.experimental.trackers.wandb_tracker:WandbTracker"},
)
# An adapter that users import by themselves.
LANGCHAIN = Plugin(
    adds="coca.experimental.langchain: a retriever and embeddings of LangChain.",
    needs=("langchain_core",),
    install="coca-captioners[langchain]",
)
DETECTION = Plugin(
    adds="Object detection: training, average precision, and boxes drawn on images.",
    # Without `needs`: every recipe reads all kinds of sources. Scores ask for pycocotools.
    install="coca-captioners[detection]",
    commands={
        "detect": "coca.experimental.detection.commands:detect",
        "finetune-detection": "coca.experimental.detection.commands:finetune_detection",
    },
    sources={"coco_instances": "coca.experimental.detection.source:KIND"},
    tasks={"detection": "coca.experimental.detection.task:detection"},
)
AUDIO = Plugin(
    adds="Sounds as images of their spectrograms, and models of CLAP, by `clap:NAME`.",
    needs=("av",),
    install="coca-captioners[audio,transformers]",
    models={"clap": "coca.experimental.audio.clap:KIND"},
    decoders=dict.fromkeys(
        (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav"),
        "coca.experimental.audio.spectrogram:decode",
    ),
)
