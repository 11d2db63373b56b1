"""Routes of other servers in `coca serve`, for clients that know these servers only.

| routes | server |
|---|---|
| `/embed`, `/rerank`, `/info`, `/health` | text-embeddings-inference; Milvus's functions call it |
| `/embeddings`, `/models`, `/rerank` with `documents` | Infinity |
| `/v2/rerank` | Cohere, whose first version `/v1/rerank` the service has by itself |
| `/v2/health/live`, `/v2/health/ready` | KServe |
"""
