"""Routes of other servers in `coca serve`, for clients that know these servers only.

| routes | server |
|---|---|
| `/v1/embeddings`, `/v1/models` | OpenAI |
| `/v1/rerank` | Cohere v1 and Jina |
| `/embed`, `/rerank`, `/info`, `/health` | text-embeddings-inference; Milvus's functions call it |
| `/embeddings`, `/models`, `/rerank` with `documents` | Infinity |
| `/v2/rerank` | Cohere v2 |
| `/v2/health/live`, `/v2/health/ready` | KServe |
"""
