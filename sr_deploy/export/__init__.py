"""Export of networks to verified ONNX graphs."""
