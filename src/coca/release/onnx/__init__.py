"""Export to ONNX: graphs, int8 weights, and the gates that compare them with torch."""
