"""Slices to ONNX graphs: exported, lowered to the target's opset, converted, and checked before they are written."""
