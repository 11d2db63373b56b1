"""Served model: batches of many clients' requests, on torch or ONNX Runtime."""
