"""A run in the forms of other tools: a transformers architecture, an ONNX file, a folder for the Hub."""
