"""Release tooling: export, ONNX graphs, model cards, and adapters to other libraries."""
