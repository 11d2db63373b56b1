"""Write the generated pages of the documentation: options, reference and credits.

    python scripts/docs_pages.py

`make docs` runs this before it builds the site. The pages are not kept in git: those of options are
written from the commands, the credits from the table of the demo's photos, and a page of the
reference names modules, whose signatures and docstrings mkdocstrings shows.
"""

from pathlib import Path

import options_page

from coca.workflows.demo.run import credits_page, read_table

ROOT = Path(__file__).parents[1]

REFERENCE = {
    "coca": (
        "The public face",
        """
        predict.loading.load
        """,
    ),
    "predict": (
        "Loaded models",
        """
        predict.loading predict.predictor predict.torch_predictor predict.onnx_predictor
        predict.torch_loading predict.model_kinds predict.open_weights predict.run_model
        predict.hub predict.video predict.prompts predict.inputs predict.image_reading
        predict.manifest predict.onnx_decoder predict.onnx_beam_search predict.onnx_scoring
        """,
    ),
    "search": (
        "Search",
        """
        search.predictor search.stores search.store search.records search.search_options
        search.filters search.photo_filter search.query.engine search.query.query_terms
        search.query.explanation search.query.rerank search.ranking search.words
        search.ingest.pipeline search.ingest.sources search.ingest.ingest_report
        search.ingest.parquet search.ingest.migrate search.ingest.reindex
        search.mining.zero_shot search.mining.recommend search.mining.selection
        search.mining.duplicates search.sqlite.store search.milvus.store
        search.milvus.collection search.milvus.schema search.milvus.vector_index
        """,
    ),
    "model": (
        "Model",
        """
        model.coca_config model.coca model.text_decoder model.losses.captioning_loss
        model.class_coca model.lora model.generation.generate model.pretrained model.checkpoint
        model.openclip.state_dict_io model.heads model.losses.contrastive_loss model.layers.packing
        model.openclip.openclip model.openclip.openclip_config model.generation.scoring
        model.generation.generation_config
        """,
    ),
    "processing": (
        "Processing",
        """
        processing.image processing.video processing.augment processing.tokenizer
        processing.clip_bpe processing.processor processing.image_file processing.preprocess
        """,
    ),
    "data": (
        "Data",
        """
        data.sources.source data.sources.factory data.sample data.batch data.sources.folder
        data.sources.table_source data.sources.zip_archive data.sources.table data.datasets.coco
        data.datasets.question_answering data.datasets.statements data.sources.annotated
        data.sources.video_clips data.datasets.videos data.sources.tar.shards
        data.loading.mixture data.loading.loader
        """,
    ),
    "train": (
        "Training",
        """
        train.objective train.losses train.optim.optimizer train.optim.schedule train.tracker
        train.trainer train.optim.param_groups train.optim.ema train.distributed.parallel
        train.distributed.context train.backward train.nonfinite
        """,
    ),
    "tasks": (
        "Tasks",
        """
        tasks.task tasks.image_text_retrieval tasks.classification.recognition
        tasks.understanding tasks.classification.zero_shot tasks.captioning tasks.reranking
        tasks.baselines
        """,
    ),
    "metrics": (
        "Metrics",
        """
        metrics.retrieval metrics.classification metrics.caption_metrics metrics.answers
        metrics.intervals
        """,
    ),
    "workflows": (
        "Workflows",
        """
        workflows.training.pretrain workflows.training.finetune workflows.evaluation.evaluate
        workflows.evaluation.evaluation_report workflows.evaluation.report
        workflows.collections.index workflows.collections.index_settings
        workflows.collections.image_sources workflows.collections.image_resolver
        workflows.collections.watch workflows.collections.collection_model
        workflows.collections.class_prompts workflows.collections.mining
        workflows.collections.subset workflows.demo.run release.export release.onnx.onnx_export
        release.onnx.gates release.model_card workflows.training.pretrain_data
        workflows.training.training_run workflows.training.run_evaluation
        workflows.training.init_weights
        """,
    ),
    "server": (
        "coca.server",
        """
        server.service server.settings server.app server.served_model
        server.images.decoding.decoder server.images.decoding.worker_process server.keys
        server.errors
        """,
    ),
    "adapters": (
        "coca.release.adapters",
        """
        release.adapters.sentence_transformers
        """,
    ),
    "core": (
        "Core",
        """
        core.config.frozen_config core.config.fields core.errors core.registry core.files.atomic
        core.files.local_files core.files.formats core.progress core.provenance core.prefetch
        """,
    ),
}
"""By page of the reference, its title, and its modules or their members below `coca`."""


def pages() -> dict[str, str]:
    """Return the generated pages by their path below `docs`."""
    listed = "".join(f"- [{title}]({name}.md)\n" for name, (title, _) in REFERENCE.items())
    written = {
        "options.md": options_page.page(),
        "photo-credits.md": credits_page(read_table()),
        "reference/index.md": f"# Reference\n\n- [Options](../options.md)\n{listed}",
    }
    for name, (title, modules) in REFERENCE.items():
        directives = "\n\n".join(f"::: coca.{module}" for module in modules.split())
        written[f"reference/{name}.md"] = f"# {title}\n\n{directives}\n"
    return written


def write(docs: Path) -> None:
    """Write the generated pages into the folder of the documentation."""
    for name, text in pages().items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(ROOT / "docs")
