"""Adapters to other libraries, one file each; users import them, so they add no names to `coca`.

| library | adapter |
|---|---|
| FiftyOne | `fiftyone.CoCaZooModel`, a `Model` with embeddings and prompts |
| Haystack | `haystack.CoCaDocumentImageEmbedder`, `haystack.CoCaTextEmbedder` |
| LlamaIndex | `llama_index.CoCaEmbedding`, a `MultiModalEmbedding` |
| MTEB | `mteb.CoCaEncoder`, for tasks of images and texts |
| pymilvus.model | `pymilvus_model.CoCaEmbeddingFunction`, `pymilvus_model.CoCaRerankFunction` |

All return the vectors of `coca.load(...).embed_texts` and `embed_images`, of length 1.
"""
